"""Who evaluates what of the held-out samples: all ranks in turn, or rank 0 alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.parallel import DistributedDataParallel

from scalebench.data.base import SampleSource
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place
from scalebench.recipe import ValidateOn
from scalebench.strategies.base import Batch, TrainStep


@dataclass(frozen=True, kw_only=True)
class Share:
    """This rank's micro-batches of `source`, of which `batches` bounds those of all ranks together."""

    source: SampleSource
    micro_batch: int
    batches: int | None = None
    on: ValidateOn = "all"
    place: Place
    phase: Phase

    def __iter__(self) -> Iterator[tuple[int | None, Batch]]:
        """The number of each micro-batch, counted over all ranks, and its samples on the device.

        With all ranks at it each gets equally many, since evaluating may be collective: those beyond the last have no
        number, and do not count.
        """
        for index in self._indices():
            self.phase.beat()
            counts = index < self._count
            yield (index, self._batch(index)) if counts else (None, self._batch(0))

    @property
    def samples(self) -> int:
        """How many all ranks together look at."""
        return min(len(self.source), self._count * self.micro_batch)

    @property
    def works(self) -> bool:
        """Whether this rank has a part in it, rather than waiting."""
        return self.on == "all" or self.place.rank == 0

    def size(self, index: int) -> int:
        """How many samples the micro-batch of that number has."""
        return min(self.micro_batch, len(self.source) - index * self.micro_batch)

    def taken(self, step: TrainStep) -> contextlib.AbstractContextManager[None]:
        """Inside, `step` infers together with whoever works."""
        return alone(step) if self.on == "rank0" else contextlib.nullcontext()

    @property
    def _count(self) -> int:
        all_of_them = math.ceil(len(self.source) / self.micro_batch)
        return min(all_of_them, self.batches or all_of_them)

    def _indices(self) -> range:
        if self.on == "rank0":
            return range(self._count if self.works else 0)
        world = self.place.world_size
        return range(self.place.rank, math.ceil(self._count / world) * world, world)

    def _batch(self, index: int) -> Batch:
        draws = index * self.micro_batch + torch.arange(self.size(index))
        return {name: value.to(self.place.device) for name, value in self.source.__getitems__(draws).items()}


@contextlib.contextmanager
def alone(step: TrainStep) -> Iterator[None]:
    """Inside, this rank infers without the others: DDP's wrapper, which sends buffers around, is left out."""
    wrapped = step.module
    if isinstance(wrapped, DistributedDataParallel):
        step.module = wrapped.module
    try:
        yield
    finally:
        step.module = wrapped
