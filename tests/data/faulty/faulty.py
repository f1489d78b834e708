"""Backends that go wrong on one rank: a third party's strategies, found by their entry points on PYTHONPATH."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from scalebench.strategies.base import Batch, TrainStep, Workload
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.ddp import DDP
from scalebench.strategies.deepspeed import DeepSpeed
from scalebench.strategies.fsdp import FSDP

FOREVER = 10_000.0


def raise_() -> None:
    raise ValueError("deliberate, on one rank")


def take_all_memory() -> None:
    """Hold more and more until there is no more."""
    held = []
    while True:
        held.append(torch.ones(2**22))


FAULTS: dict[str, Callable[[], object]] = {
    "raise": raise_,
    "hang": lambda: time.sleep(FOREVER),
    "exit": lambda: os._exit(7),
    "abort": os.abort,
    "ask for too much": lambda: torch.empty(2**50),
    "take all memory": take_all_memory,
}


class FaultyStep:
    """A step that goes wrong once."""

    def __init__(self, step: TrainStep, fault: Callable[[], object], at: int) -> None:
        self._step, self._fault, self._left = step, fault, at

    def __call__(self, micro_batches: Sequence[Batch]) -> Tensor:
        self._left -= 1
        if not self._left:
            self._fault()
        return self._step(micro_batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


@dataclass(frozen=True, kw_only=True)
class Faulty:
    """Options that say what goes wrong: `absent` before the ranks meet, else in step `step` of `rank`."""

    fault: str = "raise"
    rank: int = 1
    step: int = 5

    def unsupported_reason(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        if self.fault == "absent" and os.environ.get("RANK") == str(self.rank):
            time.sleep(FOREVER)
        return super().unsupported_reason(config, device_type, world_size)  # type: ignore[misc, no-any-return]

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> Any:
        step = super().prepare(workload, config, device)  # type: ignore[misc]
        mine = os.environ["RANK"] == str(self.rank)
        return FaultyStep(step, FAULTS[self.fault], self.step) if mine else step


@dataclass(frozen=True, kw_only=True)
class FaultyDDP(Faulty, DDP):
    name: ClassVar[str] = "faulty_ddp"


@dataclass(frozen=True, kw_only=True)
class FaultyFSDP(Faulty, FSDP):
    name: ClassVar[str] = "faulty_fsdp"


@dataclass(frozen=True, kw_only=True)
class FaultyStage3(Faulty, DeepSpeed):
    name: ClassVar[str] = "faulty_deepspeed_stage_3"

    stage: int | None = 3

    def options(self) -> dict[str, object]:
        return {name: value for name, value in super().options().items() if name not in Faulty.__dataclass_fields__}
