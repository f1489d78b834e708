"""FSDP1 as Lightning's Fabric runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from .base import Strategy, TrainStep, Workload
from .config import TrainConfig
from .construct import build_on_meta, build_optimizer, materialise_, parameter_groups, prepare_process
from .fabric import (
    LightningFabric,
    attach,
    fabric_step,
    forward_module,
    load_strategies,
    rank_for_logs,
)
from .framework import private_environment, required
from .fsdp1 import FSDP1, WRAPPED, mixed_precision, whole_parameters


@dataclass(frozen=True, kw_only=True)
class LightningFSDP(LightningFabric):
    """lightning.fabric.strategies.FSDPStrategy; compare with `fsdp1`. For mixed precision it casts shards and turns on
    autocast too."""

    name: ClassVar[str] = "lightning_fsdp"
    raw: ClassVar[Strategy] = FSDP1()
    casts_inputs: ClassVar[bool] = False

    def substitution(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        if device_type == "cpu":
            return "Fabric refuses FSDP1 on a CPU: use fsdp1, or lightning_model_parallel"
        return super().substitution(config, device_type, world_size)

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        inner = build_on_meta(workload, config)
        no_decay = workload.no_decay_names(inner)
        with private_environment():
            strategy = self._strategy(inner, workload, config, device)
            release = rank_for_logs()
            fabric = attach(strategy, self.plugin(config), device)
            module = fabric.setup_module(inner)
            wrapper = required(forward_module(module), FullyShardedDataParallel, "Fabric")
            named = [(name.replace(WRAPPED, ""), parameter) for name, parameter in wrapper.named_parameters()]
            groups = parameter_groups(named, no_decay, config.optimizer)
            wrapped = fabric.setup_optimizers(build_optimizer(groups, config.optimizer))
        prepare_process(config)
        return fabric_step(
            fabric,
            module,
            wrapped,
            config=config,
            device=device,
            whole_parameters=lambda: whole_parameters(wrapper),
            release=release,
        )

    def _strategy(self, inner: nn.Module, workload: Workload, config: TrainConfig, device: torch.device) -> Any:
        """Fabric's, which wraps each block and materialises what it wraps: no rank ever holds the whole model."""
        names = {id(module): name for name, module in inner.named_modules()}
        blocks = {id(inner.get_submodule(name)) for name in workload.block_names(inner)}

        def materialise(module: nn.Module) -> None:
            name = names[id(module)]
            materialise_(module, workload, config, device, prefix=f"{name}." if name else "")

        def wrap(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
            return recurse or id(module) in blocks

        return self.strategy_class()(
            auto_wrap_policy=wrap, param_init_fn=materialise, mixed_precision=mixed_precision(config)
        )

    def strategy_class(self) -> Any:
        """Fabric's class."""
        return load_strategies().FSDPStrategy
