"""What a third party writes to add a strategy: a frozen dataclass of options, and `prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from scalebench.strategies.base import Strategy, TrainStep, Workload
from scalebench.strategies.config import GradSync, TrainConfig
from scalebench.strategies.single import Single


@dataclass(frozen=True, kw_only=True)
class Echo(Strategy):
    """Plain PyTorch under another name."""

    name: ClassVar[str] = "echo"
    default_grad_sync: ClassVar[GradSync] = "every_micro_batch"
    max_world_size: ClassVar[int | None] = 1

    volume: float = 1.0

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        return Single().prepare(workload, config, device)
