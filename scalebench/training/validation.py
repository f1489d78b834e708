"""Validation by all ranks: each takes every n-th micro-batch, and what they found is added up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from scalebench.data.base import SampleSource
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place
from scalebench.strategies.base import Batch, TrainStep
from scalebench.workloads.base import Workload


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What is validated on, and by whom. `batches` bounds the micro-batches of all ranks together."""

    source: SampleSource
    workload: Workload
    micro_batch: int
    batches: int | None
    place: Place
    phase: Phase

    def __call__(self, step: TrainStep) -> dict[str, float]:
        """The workload's metrics of the samples, each counted once. Collective: every rank gets the same."""
        sums: dict[str, Tensor] = {}
        for index in self._indices():
            own = index < self._count
            self.phase.beat()
            for name, value in step.evaluate(self._batch(index if own else 0)).items():
                sums.setdefault(name, torch.zeros_like(value, dtype=torch.float64))
                if own:  # else there was nothing left, and a batch was only run because the others run one
                    sums[name] += value
        if dist.is_initialized():
            for name in sorted(sums):
                dist.all_reduce(sums[name])
        return self.workload.metrics(sums)

    @property
    def samples(self) -> int:
        """How many it looks at."""
        return min(len(self.source), self._count * self.micro_batch)

    @property
    def _count(self) -> int:
        all_of_them = math.ceil(len(self.source) / self.micro_batch)
        return min(all_of_them, self.batches or all_of_them)

    def _indices(self) -> range:
        """This rank's micro-batches; as many on every rank, so that some may lie beyond the last."""
        world = self.place.world_size
        return range(self.place.rank, math.ceil(self._count / world) * world, world)

    def _batch(self, index: int) -> Batch:
        first = index * self.micro_batch
        draws = torch.arange(first, min(first + self.micro_batch, len(self.source)))
        return {name: value.to(self.place.device) for name, value in self.source.__getitems__(draws).items()}
