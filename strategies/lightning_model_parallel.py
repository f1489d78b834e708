"""FSDP2 as Lightning's Fabric runs it, by its ModelParallelStrategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from .base import TrainStep, Workload
from .config import Casting, TrainConfig
from .construct import build_on_meta, build_optimizer, materialise_, parameter_groups, prepare_process
from .fabric import (
    PRECISIONS,
    LightningFabric,
    attach,
    fabric_step,
    forward_module,
    load_strategies,
    rank_for_logs,
)
from .framework import private_environment, required
from .fsdp import FSDP, reshard, whole_parameters


@dataclass(frozen=True, kw_only=True)
class LightningModelParallel(LightningFabric):
    """lightning.fabric.strategies.ModelParallelStrategy over one data-parallel dimension; compare with `fsdp`.

    How a model is sharded and cast is its user's function there: it is what `fsdp` does. So Fabric's own precision is
    `32-true` for mixed precisions: the shards are cast when they are gathered.
    """

    name: ClassVar[str] = "lightning_model_parallel"
    raw: ClassVar[FSDP] = FSDP()
    casting: ClassVar[Casting] = "sharded-cast"

    def substitution(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        if config.precision == "fp16":
            return "Fabric's ModelParallelStrategy scales no loss in fp16: use bf16, or fsdp"
        return super().substitution(config, device_type, world_size)

    def plugin(self, config: TrainConfig) -> str:
        return PRECISIONS["fp32" if config.mixed else config.precision]

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        inner = build_on_meta(workload, config)
        no_decay, blocks = workload.no_decay_names(inner), workload.block_names(inner)

        def parallelize(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
            self.raw.shard(module, blocks, config, mesh["data_parallel"])
            materialise_(module, workload, config, device)
            return module

        with private_environment():
            strategies = load_strategies()
            release = rank_for_logs()
            mesh = {"data_parallel_size": dist.get_world_size(), "tensor_parallel_size": 1}
            strategy = strategies.ModelParallelStrategy(parallelize, **mesh)
            fabric = attach(strategy, self.plugin(config), device)
            module = fabric.setup_module(inner)
            groups = parameter_groups(inner.named_parameters(), no_decay, config.optimizer)
            wrapped = fabric.setup_optimizers(build_optimizer(groups, config.optimizer))
        required(forward_module(module), FSDPModule, "Fabric")
        prepare_process(config)
        return fabric_step(
            fabric,
            module,
            wrapped,
            config=config,
            device=device,
            whole_parameters=lambda: whole_parameters(inner, device),
            release=release,
            after_inference=lambda: reshard(inner),
        )
