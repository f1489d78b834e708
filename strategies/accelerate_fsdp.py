"""FSDP2 as Accelerate runs it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from .accelerator import Accelerate, accelerate_step, accelerator, count_skipped_steps
from .base import Strategy, TrainStep, Workload
from .config import Casting, TrainConfig
from .construct import build_on_meta, build_optimizer, materialise_, parameter_groups, prepare_process
from .framework import private_environment, required
from .fsdp import FSDP, mixed_precision, reshard, whole_parameters


@dataclass(frozen=True, kw_only=True)
class AccelerateFSDP(Accelerate):
    """accelerate.Accelerator with a FullyShardedDataParallelPlugin of fsdp_version 2; compare with `fsdp`.

    Accelerate finds the sharded parameters of an optimizer by the addresses of the whole ones: the whole model is there
    before it is sharded.
    """

    name: ClassVar[str] = "accelerate_fsdp"
    raw: ClassVar[Strategy] = FSDP()
    casting: ClassVar[Casting] = "sharded-cast"
    differs: ClassVar[tuple[str, ...]] = ("every rank holds the whole model before it is sharded",)

    def substitution(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        if device_type == "cpu":
            return "Accelerate runs DDP in the place of FSDP on a CPU, without a word: use fsdp, or accelerate_ddp"
        return super().substitution(config, device_type, world_size)

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        inner = build_on_meta(workload, config)
        materialise_(inner, workload, config, device)
        groups = parameter_groups(inner.named_parameters(), workload.no_decay_names(inner), config.optimizer)
        with private_environment():
            made = accelerator(config, device, fsdp_plugin=_plugin(inner, workload, config))
            scaler = count_skipped_steps(made, config, device)
            module, wrapped = made.prepare(inner, build_optimizer(groups, config.optimizer))
        required(module, FSDPModule, "Accelerate")
        prepare_process(config)
        return accelerate_step(
            made,
            module,
            wrapped,
            config=config,
            device=device,
            whole_parameters=lambda: whole_parameters(module, device),
            scaler=scaler,
            after_inference=lambda: reshard(module),
        )


def _plugin(inner: nn.Module, workload: Workload, config: TrainConfig) -> Any:
    """Each block a unit of its own, known to Accelerate by its class."""
    classes = {type(inner.get_submodule(name)).__name__ for name in workload.block_names(inner)}
    return importlib.import_module("accelerate.utils").FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=sorted(classes),
        mixed_precision_policy=mixed_precision(config),
    )
