"""Host time of the loop itself: batches, marks and bookkeeping around a step that does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from scalebench import data, workloads
from scalebench.harness.loop import run_steps
from scalebench.meters.clock import HostClock
from scalebench.strategies.base import Batch


class EmptyStep:
    """What the loop asks of a TrainStep, for nothing."""

    def __init__(self) -> None:
        self._loss = torch.zeros(())

    def __call__(self, micro_batches: Sequence[Batch]) -> Tensor:
        return self._loss

    def grad_norm(self) -> Tensor:
        return self._loss


def microseconds_per_step(rows: int = 9, steps: int = 1000) -> float:
    """Median over `rows` rows of `steps` empty steps each, on one thread, with the batches of gpt tiny."""
    torch.set_num_threads(1)
    source = workloads.create("gpt", "tiny").samples("synthetic", 0)
    batches = data.loader(source, micro_batch=4, device=torch.device("cpu"))
    timelines = [run_steps(EmptyStep(), batches, steps, HostClock()) for _ in range(rows)]
    return median((timeline.step_end_ns[-1] - timeline.start_ns) / steps / 1e3 for timeline in timelines)
