"""What a step exchanges between ranks and how long that takes, off the clock: counts observed, times profiled.

Counts and payload are torch's own (c10d): a backend may translate them, as gloo does a reduce-scatter into an
all-reduce. Times are those of NCCL's kernels on a GPU, and on a CPU those in which gloo's threads work on a collective.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.distributed as dist
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from scalebench.meters.observer import Issued, StepObserver, collective_kind
from scalebench.records.communication import CollectiveFacts, CommunicationFacts
from scalebench.strategies.base import Batch, TrainStep

Interval = tuple[float, float]
"""Start and end."""

GLOO = "gloo:"
NCCL_KERNELS = {
    "AllReduce": "all_reduce",
    "AllGather": "all_gather",
    "ReduceScatter": "reduce_scatter",
    "Broadcast": "broadcast",
    "Reduce": "reduce",
    "SendRecv": "all_to_all",
}
"""What stands in the names of NCCL's kernels, the most telling first, and what kind of collective it is."""
COMPUTING = ("aten::", "fsdp::", "torch::distributed::reducer", "torch.distributed.ddp.reducer")
"""How the names of operators that work on the CPU begin. Others are brackets around them, or wait."""
MICROSECOND = 1e-6


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a profiled step was doing when, in microseconds: each collective's kind and interval in the order of their
    start, and the intervals of computation."""

    collectives: list[tuple[str, Interval]]
    computing: list[Interval]
    span: Interval


def measure_communication(
    step: TrainStep, micro_batches: Sequence[Batch], observer: StepObserver, device: torch.device
) -> CommunicationFacts | None:
    """The collectives that `observer` saw in a step, timed in another one. Runs two optimizer steps; collective.

    None where there is nobody to communicate with.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    issued = [one for one in observer.collectives if one.ranks > 1]
    trace = profiled(step, micro_batches, device)
    facts = CommunicationFacts(
        backend=dist.get_backend(),
        collectives=by_kind(issued, {}),
        control_count=sum(one.control for one in issued),
        step_seconds=(trace.span[1] - trace.span[0]) * MICROSECOND,
    )
    if len(trace.collectives) != len(issued):
        found = f"the profiler saw {len(trace.collectives)} collectives where {len(issued)} were issued"
        return facts.model_copy(update={"unknown_because": found})
    under_way = [interval for _, interval in trace.collectives]
    return facts.model_copy(
        update={
            "collectives": by_kind(issued, paired(issued, trace.collectives)),
            "total_seconds": length(union(under_way)) * MICROSECOND,
            "exposed_seconds": length(outside(union(under_way), union(trace.computing))) * MICROSECOND,
        }
    )


def by_kind(issued: Iterable[Issued], times: dict[int, Interval]) -> list[CollectiveFacts]:
    """`issued`, but for flags and norms, by kind, ranks and dtype; `times` has the interval of each, by its place."""
    key = lambda item: (item[1].kind, item[1].ranks, item[1].dtype)  # noqa: E731
    data = sorted((item for item in enumerate(issued) if not item[1].control), key=key)
    facts = []
    for (kind, ranks, dtype), group in groupby(data, key=key):
        members = list(group)
        known = [times[place] for place, _ in members if place in times]
        facts.append(
            CollectiveFacts(
                kind=kind,
                ranks=ranks,
                dtype=dtype,
                count=len(members),
                payload_bytes=sum(one.payload_bytes for _, one in members),
                seconds=length(union(known)) * MICROSECOND if len(known) == len(members) else None,
            )
        )
    return facts


def paired(issued: Sequence[Issued], ran: Sequence[tuple[str, Interval]]) -> dict[int, Interval]:
    """The interval of each issued collective, by its place: those of a kind run in the order in which they were issued.

    Kinds of which other numbers ran than were issued are left out.
    """
    times: dict[int, Interval] = {}
    for kind in {one.kind for one in issued}:
        places = [place for place, one in enumerate(issued) if one.kind == kind]
        intervals = [interval for its_kind, interval in ran if its_kind == kind]
        if len(places) == len(intervals):
            times |= dict(zip(places, intervals, strict=True))
    return times


def profiled(step: TrainStep, micro_batches: Sequence[Batch], device: torch.device) -> Trace:
    """One step as torch's profiler sees it, after another one in which the profiler itself gets going."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    for _ in range(2):
        with profile(activities=activities) as profiler:
            step(micro_batches)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    events = list(what_ran(profiler.events() or []))
    return cuda_trace(events) if device.type == "cuda" else cpu_trace(events)


Event = tuple[str, Interval, DeviceType]


def what_ran(events: Iterable[FunctionEvent]) -> Iterator[Event]:
    """Names, intervals and devices of what a profiler saw, but for ranges of the host that it repeats on a GPU: from
    the first to the last kernel that each started, whatever ran or idled in between."""
    for event in events:
        if event.device_type == DeviceType.CPU or not event.is_user_annotation:
            yield event.name, interval_of(event), event.device_type


def cuda_trace(events: Sequence[Event]) -> Trace:
    """By kernels: NCCL's, and all others, copies and fills included."""
    kernels = sorted((interval, name) for name, interval, where in events if where == DeviceType.CUDA)
    ran = [(kind, interval) for interval, name in kernels if (kind := nccl_kind(name))]
    computing = [interval for interval, name in kernels if not nccl_kind(name)]
    return Trace(collectives=ran, computing=computing, span=span(interval for interval, _ in kernels))


def nccl_kind(kernel: str) -> str | None:
    """The kind of collective that a kernel of NCCL does; None for other kernels."""
    if not kernel.startswith("nccl"):
        return None
    return next((kind for mark, kind in NCCL_KERNELS.items() if mark in kernel), None)


def cpu_trace(events: Sequence[Event]) -> Trace:
    """By operators, and by what gloo's threads work on: they take up collectives in the order they were issued."""
    worked = sorted(interval for name, interval, _ in events if name.startswith(GLOO))
    issued = sorted((interval, kind) for name, interval, _ in events if (kind := c10d_kind(name)))
    kinds = [kind for _, kind in issued] if len(issued) == len(worked) else ["unknown"] * len(worked)
    computing = [interval for name, interval, _ in events if name.startswith(COMPUTING)]
    return Trace(
        collectives=list(zip(kinds, worked, strict=True)),
        computing=computing,
        span=span(interval for _, interval, _ in events),
    )


def c10d_kind(operator: str) -> str | None:
    """The kind of collective that an operator of c10d issues; None for other operators."""
    namespace, _, name = operator.partition("::")
    return collective_kind(name) if namespace == "c10d" else None


def interval_of(event: FunctionEvent) -> Interval:
    """When an event was, in microseconds."""
    return event.time_range.start, event.time_range.end


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Disjoint intervals, in order, that cover the same time."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def outside(some: Sequence[Interval], others: Sequence[Interval]) -> list[Interval]:
    """The parts of `some` that no interval of `others` covers; both as `union` makes them."""
    left = []
    for start, end in some:
        for other_start, other_end in others:
            if other_end <= start or other_start >= end:
                continue
            if other_start > start:
                left.append((start, other_start))
            start = max(start, other_end)
        if start < end:
            left.append((start, end))
    return left


def length(intervals: Iterable[Interval]) -> float:
    """Time that disjoint intervals cover."""
    return sum(end - start for start, end in intervals)


def span(intervals: Iterable[Interval]) -> Interval:
    """From the first start to the last end."""
    found = list(intervals)
    return (min(start for start, _ in found), max(end for _, end in found)) if found else (0.0, 0.0)
