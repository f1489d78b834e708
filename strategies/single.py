"""Plain PyTorch on one rank, no wrapper: the baseline of every speedup and the reference of every parity check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .base import Strategy, Workload
from .config import TrainConfig
from .construct import build_on_meta, build_optimizer, materialise_, parameter_groups, prepare_process
from .loss_scaling import LossScaler
from .torch_step import TorchStep, clip_by_global_norm


@dataclass(frozen=True, kw_only=True)
class Single(Strategy):
    """One process, one device, no collective."""

    name: ClassVar[str] = "single"
    max_world_size: ClassVar[int | None] = 1
    evaluates_alone: ClassVar[bool] = True

    def unsupported_reason(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        if world_size > 1:
            return f"single runs on one rank, not {world_size}; use ddp for plain data parallelism"
        return None

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TorchStep:
        module = build_on_meta(workload, config)
        materialise_(module, workload, config, device)
        groups = parameter_groups(module.named_parameters(), workload.no_decay_names(module), config.optimizer)
        prepare_process(config)
        return TorchStep(
            module=module,
            optimizer=build_optimizer(groups, config.optimizer),
            config=config,
            device=device,
            whole_parameters=module.named_parameters,
            clip=clip_by_global_norm(list(module.parameters())),
            scaler=LossScaler(config, device),
        )
