"""From samples to the micro-batches of each optimizer step, on the device, with little work on the clock."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from scalebench.data.base import SampleSource
from scalebench.data.sampler import GlobalBatchSampler
from scalebench.data.samples import TensorSamples
from scalebench.data.tokens import TokenSamples
from scalebench.errors import UserError
from scalebench.strategies.base import Batch

WORKER_START = "fork" if sys.platform == "linux" else None
"""torch's own way on Linux, said outright: a rank's processes start as the rank was, which here takes seconds each."""
FETCHED_SAMPLES = 64
"""About how many samples that lie in memory are fetched at once, so that the cost of a fetch all but vanishes."""


def loader(
    source: SampleSource,
    *,
    micro_batch: int,
    accumulation: int = 1,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    device: torch.device,
    num_workers: int = 0,
    first_step: int | None = None,
    steps_per_epoch: int | None = None,
) -> Iterator[list[Batch]]:
    """Endless: each item is the list of this rank's `accumulation` micro-batches of one optimizer step, on `device`.

    Epochs follow each other, each with its own permutation (see GlobalBatchSampler), of at most `steps_per_epoch`
    steps; the steps before `first_step` are taken to be over. With `num_workers`, as many
    processes of torch's DataLoader fetch samples ahead of time. On CUDA they are copied from pinned memory on a stream
    of their own, one fetch, and so at least one step, ahead. Raises UserError, at once and not at the first item, when
    the data is smaller than one global batch; later, when the source does.
    """
    sampler = GlobalBatchSampler(
        len(source),
        micro_batch=micro_batch,
        accumulation=accumulation,
        rank=rank,
        world_size=world_size,
        seed=seed,
        most_steps=steps_per_epoch,
    )
    steps = _drawn(sampler, first_step or 0)
    fetches = fetched(source, _grouped(steps, steps_per_fetch(source, sampler.per_rank)), num_workers)
    if device.type == "cuda":
        fetches = _prefetched(fetches, device)
    return _steps(fetches, micro_batch, accumulation)


def _grouped(steps: Iterator[Tensor], steps_at_once: int) -> Iterator[Tensor]:
    """The draws of as many whole steps as make one fetch."""
    while True:
        yield torch.cat(list(itertools.islice(steps, steps_at_once)))


def steps_per_fetch(source: SampleSource, samples: int) -> int:
    """Steps whose batches are fetched at once when a rank takes so many `samples` in each.

    One where samples must be made first: a step should wait for its own samples alone, not now and then for many.
    """
    return max(1, FETCHED_SAMPLES // samples) if isinstance(source, TokenSamples | TensorSamples) else 1


def _drawn(sampler: GlobalBatchSampler, first_step: int) -> Iterator[Tensor]:
    """The draws of each step from `first_step` on, epoch after epoch."""
    epoch, gone = divmod(first_step, len(sampler))
    for number in itertools.count(epoch):
        sampler.set_epoch(number)
        yield from itertools.islice(sampler, gone if number == epoch else 0, None)


def fetched(source: SampleSource, indices: Iterable[Tensor], num_workers: int) -> Iterator[Mapping[str, Tensor]]:
    """The samples at each of `indices` as one batch on the CPU."""
    if not num_workers:
        return map(source.__getitems__, indices)
    generator = torch.Generator()  # its own, so that starting workers leaves the global random state alone
    workers: Any = DataLoader  # its types know neither sources without __getitem__ nor indices in tensors
    loaded = workers(
        Telling(source),
        batch_sampler=(draws.numpy() for draws in indices),  # a tensor would travel by a file in shared memory
        num_workers=num_workers,
        collate_fn=_whole,
        generator=generator,
        multiprocessing_context=WORKER_START,
    )
    return map(_good, loaded)


@dataclass(frozen=True)
class Telling:
    """A source that hands a UserError over instead of raising it: torch would bury its sentence in a traceback."""

    source: SampleSource

    def __getitems__(self, indices: npt.NDArray[np.int64]) -> Mapping[str, Tensor] | UserError:
        try:
            return self.source.__getitems__(torch.from_numpy(indices))
        except UserError as error:
            return error


def _good(fetched: Mapping[str, Tensor] | UserError) -> Mapping[str, Tensor]:
    try:
        if isinstance(fetched, UserError):
            raise fetched
        return fetched
    finally:
        # An error that holds itself by its traceback would hold the workers too, whose end then takes seconds.
        del fetched


def _whole(batch: Mapping[str, Tensor] | UserError) -> Mapping[str, Tensor] | UserError:
    """The source already made a batch: nothing to collate. A worker lays it into shared memory here, since an error in
    doing so would be lost where torch does it, and the rank wait for ever."""
    try:
        if not isinstance(batch, UserError):
            for tensor in batch.values():
                tensor.share_memory_()  # type: ignore[no-untyped-call]
        return batch
    except RuntimeError as error:
        for unfinished in Path("/dev/shm").glob(f"torch_{os.getpid()}_*"):
            unfinished.unlink()  # which torch leaves behind
        return UserError(
            f"a loader's worker found no shared memory for its batch: {error}. Give /dev/shm more room, in a container "
            "by docker run --shm-size 8g, or leave --num-workers out."
        )


def _steps(fetches: Iterator[Mapping[str, Tensor]], micro_batch: int, accumulation: int) -> Iterator[list[Batch]]:
    """Cut each fetch into micro-batches (views) and these into steps."""
    for fetch in fetches:
        parts = zip(*(torch.split(tensor, micro_batch) for tensor in fetch.values()), strict=True)
        micro_batches: list[Batch] = [dict(zip(fetch, part, strict=True)) for part in parts]
        for start in range(0, len(micro_batches), accumulation):
            yield micro_batches[start : start + accumulation]


def _prefetched(fetches: Iterator[Mapping[str, Tensor]], device: torch.device) -> Iterator[Mapping[str, Tensor]]:
    """`fetches` on a CUDA device; while one is used the next is already being copied."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copied(fetch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with torch.cuda.stream(stream):
            return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in fetch.items()}

    ahead = copied(next(fetches))
    for fetch in fetches:
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for tensor in ahead.values():
            tensor.record_stream(current)  # its memory is not reused while steps on this stream still read it
        ready, ahead = ahead, copied(fetch)
        yield ready
