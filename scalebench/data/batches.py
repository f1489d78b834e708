"""From samples to the micro-batches of one optimizer step, on the device, with little work on the clock."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from scalebench.data.sampler import GlobalBatchSampler
from scalebench.strategies.base import Batch
from scalebench.workloads.base import SampleSource


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
) -> Iterator[list[Batch]]:
    """Endless: each item is the list of this rank's `accumulation` micro-batches of one optimizer step, on `device`.

    Epochs follow each other, each with its own permutation (see GlobalBatchSampler). With `num_workers` processes
    samples are fetched ahead by torch's DataLoader. On CUDA the copies come from pinned memory, one step ahead, on a
    stream of their own. Raises UserError, here and not at the first item, when the data is smaller than a global batch.

    """
    sampler = GlobalBatchSampler(
        len(source), micro_batch=micro_batch, accumulation=accumulation, rank=rank, world_size=world_size, seed=seed
    )
    steps = _fetched(source, sampler, num_workers)
    if device.type == "cuda":
        steps = _prefetched(steps, device)
    return (_split(step, micro_batch) for step in steps)


def _fetched(source: SampleSource, sampler: GlobalBatchSampler, num_workers: int) -> Iterator[Mapping[str, Tensor]]:
    """All samples of a step as one batch on the CPU, step after step without end."""
    indices = _endless(sampler)
    if not num_workers:
        return map(source.__getitems__, indices)
    generator = torch.Generator()  # its own, so that starting workers leaves the global random state alone
    workers: Any = DataLoader  # its types know neither sources without __getitem__ nor indices in tensors
    return iter(workers(source, batch_sampler=indices, num_workers=num_workers, collate_fn=_whole, generator=generator))


def _endless(sampler: GlobalBatchSampler) -> Iterator[Tensor]:
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from sampler


def _whole(batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The source already made a batch: nothing to collate."""
    return batch


def _split(step: Mapping[str, Tensor], micro_batch: int) -> list[Batch]:
    parts = zip(*(torch.split(tensor, micro_batch) for tensor in step.values()), strict=True)
    return [dict(zip(step, part, strict=True)) for part in parts]


def _prefetched(steps: Iterator[Mapping[str, Tensor]], device: torch.device) -> Iterator[Mapping[str, Tensor]]:
    """`steps` on a CUDA device; while one is used the next is already being copied."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copied(step: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with torch.cuda.stream(stream):
            return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in step.items()}

    ahead = copied(next(steps))
    for step in steps:
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for tensor in ahead.values():
            tensor.record_stream(current)
        ready, ahead = ahead, copied(step)
        yield ready
