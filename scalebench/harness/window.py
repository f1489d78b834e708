"""The row of steps of a run: chunk after chunk through the one loop, and among them the timed window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist

from scalebench import compat
from scalebench.harness.loop import Timeline, run_steps
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place, barrier
from scalebench.meters.clock import clock_for
from scalebench.meters.cpu import CpuTimes, read_cpu_times
from scalebench.meters.memory import reset_peaks
from scalebench.meters.network import Traffic, read_traffic
from scalebench.records.device import NetworkFacts
from scalebench.records.record import ChunkFacts, WindowFacts
from scalebench.spec import RunSpec
from scalebench.stats.pacing import REFILL_STEPS, Chunk, Rule, Stopped, pace
from scalebench.strategies.base import Batch, TrainStep


@dataclass(kw_only=True)
class Meters:
    """What is read where the window opens and where it closes, outside the steps' own clock."""

    place: Place
    phase: Phase
    opened: CpuTimes = field(default_factory=read_cpu_times)
    traffic: Traffic = field(default_factory=read_traffic)
    network: NetworkFacts | None = None
    cpu: CpuTimes = field(default_factory=CpuTimes)
    graphs: int = 0
    compilations: int = 0

    def open(self) -> None:
        self.phase.enter("measuring")
        reset_peaks(self.place.device)
        self.traffic = read_traffic()
        self.graphs = compat.compiled_graphs()
        self.opened = read_cpu_times()

    def close(self) -> None:
        self.network = read_traffic().since(self.traffic) if self.place.local_rank == 0 else None
        self.compilations = compat.compiled_graphs() - self.graphs
        self.cpu = read_cpu_times().since(self.opened)


Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one rank saw of a run's steps, a timeline per chunk, and where the window lies in them."""

    chunks: list[Timeline]
    window: WindowFacts

    def chunk_facts(self) -> list[ChunkFacts]:
        """Where each chunk began and when it was over."""
        lengths = [len(timeline.step_end_ns) for timeline in self.chunks]
        return [
            ChunkFacts(
                first_step=first,
                start_ns=timeline.start_ns,
                end_ns=timeline.end_ns,
                wall_start_ns=timeline.wall_start_ns,
                wall_end_ns=timeline.wall_end_ns,
            )
            for first, timeline in zip(accumulate(lengths, initial=0), self.chunks, strict=False)
        ]

    def joined(self, values: Callable[[Timeline], list[Value]]) -> list[Value]:
        """A timeline's values per step, of all chunks after each other."""
        return [value for timeline in self.chunks for value in values(timeline)]


RunChunk = Callable[[int, Callable[[], None]], Timeline]
"""Runs so many steps without a pause, and calls something just before the barrier that they start from."""


def chunks_of(step: TrainStep, batches: Iterator[Sequence[Batch]], device: torch.device) -> RunChunk:
    """The run's own steps, after a common start of all ranks."""

    def run(steps: int, opening: Callable[[], None]) -> Timeline:
        def ready() -> None:
            opening()
            barrier(device)

        return run_steps(step, batches, steps, clock_for(device), ready=ready)

    return run


class Paces(Protocol):
    """Who says which steps are next; between two chunks it may do what it likes."""

    def begin(self) -> Chunk | Stopped: ...
    def go_on(self, ran: Timeline) -> Chunk | Stopped: ...


def run_row(run: RunChunk, pacing: Paces, meters: Meters) -> Row:
    """Let `run` make as many steps as `pacing` asks for, a chunk at a time, the meters beside those of the window."""
    chunks, first = list[Timeline](), 0
    chunk = pacing.begin()
    while isinstance(chunk, Chunk):
        if chunk.opens:
            first = sum(len(timeline.step_end_ns) for timeline in chunks)
        chunks.append(run(chunk.steps, meters.open if chunk.opens else lambda: None))
        meters.close()
        chunk = pacing.go_on(chunks[-1])
    return Row(chunks=chunks, window=WindowFacts(first_step=first, refill_steps=REFILL_STEPS, stopped=chunk))


class Pacing:
    """Rank 0 follows the rule on the job's steps and tells the others, over the CPU's process group, off the clock.

    `group` is that process group where it is not the default one.
    """

    def __init__(self, spec: RunSpec, place: Place, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self._leads = place.rank == 0
        self._rule = pace(
            Rule(
                warmup_steps=spec.warmup_steps,
                steps=spec.steps,
                precision=spec.target_precision or 0.0,
                max_seconds=spec.max_seconds or 0.0,
            )
        )

    def begin(self) -> Chunk | Stopped:
        return self._told(lambda: next(self._rule))

    def go_on(self, ran: Timeline) -> Chunk | Stopped:
        """What follows the chunk that has just run."""
        durations = job_seconds(ran, self._group)
        return self._told(lambda: self._rule.send(durations))

    def _told(self, decide: Callable[[], Chunk]) -> Chunk | Stopped:
        decision: list[Chunk | Stopped | None] = [decided(decide) if self._leads else None]
        if dist.is_initialized():
            dist.broadcast_object_list(decision, src=0, group=self._group, device=torch.device("cpu"))
        assert decision[0] is not None
        return decision[0]


def decided(decide: Callable[[], Chunk]) -> Chunk | Stopped:
    """The next chunk, or why there is none."""
    try:
        return decide()
    except StopIteration as over:
        stopped: Stopped = over.value
        return stopped


def job_seconds(ran: Timeline, group: dist.ProcessGroup | None = None) -> list[float]:
    """Duration of each step of the job: from the last rank's boundary to the last rank's next one.

    Where hosts differ in clock the latest clock's host speaks for all, which is good enough to decide how to go on.
    """
    boundaries = torch.tensor([ran.start_ns, *ran.step_end_ns])
    if dist.is_initialized():
        dist.all_reduce(boundaries, dist.ReduceOp.MAX, group=group)
    seconds: list[float] = (boundaries.diff() * 1e-9).tolist()
    return seconds
