"""What a step costs with a smaller batch (or, where there is no smaller one, a larger): off the clock.

The part of a step that is the same for both is not spent on samples: starting operators, updating parameters.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import psutil
import torch
import torch.distributed as dist

from scalebench.meters.cgroup import free_bytes
from scalebench.meters.clock import clock_for
from scalebench.records.batch_effect import BatchEffect
from scalebench.spec import RunSpec
from scalebench.strategies.base import Batch, TrainStep

PAIRS = 3
"""Timed steps of each size, after an untimed one of each."""
Step = Callable[[Sequence[Batch]], object]


def measure_batch_effect(
    step: TrainStep, micro_batches: Sequence[Batch], spec: RunSpec, device: torch.device, peak_bytes: int | None
) -> BatchEffect:
    """Run optimizer steps with `micro_batches` and with others in turn. Collective; it trains the model on.

    `peak_bytes` is what a step of the run's own batch needs, which a larger one needs once more. A model that takes no
    other batch is a reason to know nothing, not an error.
    """
    other = spec.micro_batch // 2 or 2 * spec.micro_batch
    reason = reason_against(spec, device, peak_bytes)
    facts = BatchEffect(
        clock="cuda-event" if device.type == "cuda" else "cpu", other_micro_batch=other, unknown_because=reason
    )
    if reason:
        return facts
    others = [resized(batch, other) for batch in micro_batches]
    timed = cuda_nanoseconds if device.type == "cuda" else cpu_nanoseconds
    try:
        durations = timed(step, [micro_batches, others] * (1 + PAIRS))[2:]
    except Exception as error:
        return facts.model_copy(update={"unknown_because": f"{type(error).__name__}: {error}"})
    return facts.model_copy(update={"own_ns": durations[::2], "other_ns": durations[1::2]})


def reason_against(spec: RunSpec, device: torch.device, peak_bytes: int | None) -> str | None:
    """Why another batch had better not be tried, or None: the same on all ranks. Collective."""
    if spec.compile:
        return "a compiled model would be compiled anew for another batch"
    if spec.micro_batch > 1 or everywhere(peak_bytes is not None and peak_bytes < free_memory(device)):
        return None
    return "a micro-batch of 1 cannot be halved, and there is no memory to double it"


def everywhere(here: bool) -> bool:
    """Whether it is so on every rank."""
    agreed = torch.tensor(int(here))
    if dist.is_initialized():
        dist.all_reduce(agreed, dist.ReduceOp.MIN)
    return bool(agreed)


def free_memory(device: torch.device) -> int:
    """Bytes that could still be allocated."""
    if device.type == "cuda":
        unused, _ = torch.cuda.mem_get_info(device)
        return int(unused)
    group = free_bytes()
    return min(psutil.virtual_memory().available, group if group is not None else 1 << 62)


def resized(batch: Batch, samples: int) -> Batch:
    """The first `samples` of a batch, which are repeated where it has fewer."""
    return {name: torch.cat([tensor, tensor])[:samples] for name, tensor in batch.items()}


def cpu_nanoseconds(step: Step, batches: Sequence[Sequence[Batch]]) -> list[int]:
    """CPU time of this thread in each step."""
    durations = []
    for micro_batches in batches:
        before = time.thread_time_ns()
        step(micro_batches)
        durations.append(time.thread_time_ns() - before)
    return durations


def cuda_nanoseconds(step: Step, batches: Sequence[Sequence[Batch]]) -> list[int]:
    """Time of each step on the GPU."""
    clock = clock_for(torch.device("cuda"))
    boundaries = [clock.start()]
    for micro_batches in batches:
        step(micro_batches)
        clock.mark()
    boundaries += clock.read_ns()
    return [end - start for start, end in itertools.pairwise(boundaries)]
