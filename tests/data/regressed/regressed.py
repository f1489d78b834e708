"""DDP that gets worse in ways that nobody asked for: a third party's strategy, found by its entry point on PYTHONPATH.

What goes wrong is said by the variable REGRESSION, so that the spec stays the same: `leak` (a tensor of every step is
kept), `divisor` (gradients are summed over ranks, not averaged), `precision` (they cross ranks in fp16). `delay` is an
option: a share of the step by which it takes longer, spent computing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from scalebench.strategies.base import Batch, TrainStep, Workload
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.ddp import DDP

LEAKED = 2**14


def summed(state, bucket):  # type: ignore[no-untyped-def]  # DDP reads annotations, and takes no text for one
    """DDP's own hook but for the division by the number of ranks."""
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


class Worse:
    """A step that keeps a tensor, or takes longer by a share of its own time."""

    def __init__(self, step: TrainStep, leaks: bool, delay: float) -> None:
        self._step, self._leaks, self._delay = step, leaks, delay
        self._kept: list[Tensor] = []

    def __call__(self, micro_batches: Sequence[Batch]) -> Tensor:
        began = time.perf_counter()
        loss = self._step(micro_batches)
        if self._leaks:
            self._kept.append(torch.ones(LEAKED))
        until = time.perf_counter() + self._delay * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
        return loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


@dataclass(frozen=True, kw_only=True)
class RegressedDDP(DDP):
    name: ClassVar[str] = "regressed_ddp"

    delay: float = 0.0

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> Any:
        step = super().prepare(workload, config, device)
        leaks = os.environ.get("REGRESSION") == "leak"
        return Worse(step, leaks, self.delay) if leaks or self.delay else step

    def _wrap(self, inner: nn.Module, config: TrainConfig) -> DistributedDataParallel:
        module = super()._wrap(inner, config)
        hooks = {"divisor": summed, "precision": default_hooks.fp16_compress_hook}
        if os.environ.get("REGRESSION") in hooks:
            module.register_comm_hook(None, hooks[os.environ["REGRESSION"]])
        return module
