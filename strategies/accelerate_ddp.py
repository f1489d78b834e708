"""DistributedDataParallel as Accelerate runs it."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.parallel import DistributedDataParallel

from .accelerator import Accelerate, accelerate_step, accelerator, count_skipped_steps
from .base import Strategy, TrainStep, Workload
from .config import TrainConfig
from .construct import build_on_meta, build_optimizer, materialise_, parameter_groups, prepare_process
from .ddp import DDP, MATCHED_BUCKET_MIB, keep_graphs_whole
from .framework import private_environment, required


@dataclass(frozen=True, kw_only=True)
class AccelerateDDP(Accelerate):
    """accelerate.Accelerator on several processes; compare with `ddp`."""

    name: ClassVar[str] = "accelerate_ddp"
    raw: ClassVar[Strategy] = DDP()

    def substitution(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        if device_type == "cuda" and world_size == 1:
            return "Accelerate wraps nothing on one GPU, without a word: use single, or ddp"
        return super().substitution(config, device_type, world_size)

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        inner = build_on_meta(workload, config)
        materialise_(inner, workload, config, device)
        groups = parameter_groups(inner.named_parameters(), workload.no_decay_names(inner), config.optimizer)
        keep_graphs_whole()
        with private_environment():
            made = accelerator(config, device, kwargs_handlers=_buckets(config))
            scaler = count_skipped_steps(made, config, device)
            module, wrapped = made.prepare(inner, build_optimizer(groups, config.optimizer))
        required(module, DistributedDataParallel, "Accelerate")
        prepare_process(config)
        return accelerate_step(
            made,
            module,
            wrapped,
            config=config,
            device=device,
            whole_parameters=inner.named_parameters,
            scaler=scaler,
        )


def _buckets(config: TrainConfig) -> list[Any]:
    """Buckets as `ddp` has them: 25 MiB throughout.

    Accelerate hands on only what differs from its own default, which is 25 too; where torch is told nothing, its first
    bucket is 1 MiB. The next number above 25 gives the same bytes.
    """
    if config.profile != "matched":
        return []
    utils = importlib.import_module("accelerate.utils")
    return [utils.DistributedDataParallelKwargs(bucket_cap_mb=math.nextafter(MATCHED_BUCKET_MIB, math.inf))]
