"""DistributedDataParallel as Lightning's Fabric runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.parallel import DistributedDataParallel

from .base import Strategy, TrainStep, Workload
from .config import TrainConfig
from .construct import build_on_meta, build_optimizer, materialise_, parameter_groups, prepare_process
from .ddp import DDP, MATCHED_BUCKET_MIB, keep_graphs_whole
from .fabric import (
    LightningFabric,
    attach,
    fabric_step,
    forward_module,
    load_strategies,
    rank_for_logs,
)
from .framework import private_environment, required


@dataclass(frozen=True, kw_only=True)
class LightningDDP(LightningFabric):
    """lightning.fabric.strategies.DDPStrategy; compare with `ddp`."""

    name: ClassVar[str] = "lightning_ddp"
    raw: ClassVar[Strategy] = DDP()

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        inner = build_on_meta(workload, config)
        materialise_(inner, workload, config, device)
        groups = parameter_groups(inner.named_parameters(), workload.no_decay_names(inner), config.optimizer)
        keep_graphs_whole()
        buckets = {"bucket_cap_mb": MATCHED_BUCKET_MIB} if config.profile == "matched" else {}
        with private_environment():
            strategies = load_strategies()
            release = rank_for_logs()
            fabric = attach(strategies.DDPStrategy(**buckets), self.plugin(config), device)
            module, wrapped = fabric.setup(inner, build_optimizer(groups, config.optimizer))
        required(forward_module(module), DistributedDataParallel, "Fabric")
        prepare_process(config)
        return fabric_step(
            fabric,
            module,
            wrapped,
            config=config,
            device=device,
            whole_parameters=inner.named_parameters,
            release=release,
        )
