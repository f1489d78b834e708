"""Validation: what each rank finds is added up, by all of them or by rank 0 alone, and every rank gets the same."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from scalebench.strategies.base import TrainStep
from scalebench.training.agreeing import of_all, of_first
from scalebench.training.shares import Share
from scalebench.workloads.base import Workload


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The metrics, and of each rank how many samples it took and for how many seconds it was busy with them."""

    metrics: dict[str, float]
    rank_samples: list[int]
    rank_seconds: list[float]


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What is validated on, and by whom."""

    share: Share
    workload: Workload

    def __call__(self, step: TrainStep) -> Findings:
        """The workload's metrics of the samples, each counted once. Collective: every rank gets the same.

        Ranks that have no part in it wait here.
        """
        began = time.monotonic()
        with self.share.taken(step):
            sums, samples = self._summed(step)
        if self.share.place.device.type == "cuda":
            torch.cuda.synchronize(self.share.place.device)
        ranks = of_all((samples, time.monotonic() - began))
        return Findings(
            metrics=self._metrics(sums),
            rank_samples=[samples for samples, _ in ranks],
            rank_seconds=[seconds for _, seconds in ranks],
        )

    def _summed(self, step: TrainStep) -> tuple[dict[str, Tensor], int]:
        """This rank's sums, and of how many samples."""
        sums: dict[str, Tensor] = {}
        samples = 0
        for index, batch in self.share:
            for name, value in step.evaluate(batch).items():
                sums.setdefault(name, torch.zeros_like(value, dtype=torch.float64))
                if index is not None:
                    sums[name] += value
            if index is not None:
                samples += self.share.size(index)
        return sums, samples

    def _metrics(self, sums: dict[str, Tensor]) -> dict[str, float]:
        if self.share.on == "rank0":
            return of_first(self.workload.metrics(sums) if self.share.works else {})
        if dist.is_initialized():
            for name in sorted(sums):
                dist.all_reduce(sums[name])
        return self.workload.metrics(sums)
