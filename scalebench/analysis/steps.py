"""The job's step times and throughput from its ranks' step boundaries.

Job step k runs from the last rank's boundary k-1 to the last rank's boundary k, so that steps sum to the window's wall
time exactly. (The largest of the ranks' durations, step by step, would count jitter that one rank gains and another
loses, and overstate time the more the more ranks there are.) The first step of a chunk runs from the last rank's start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalebench.records.record import RankFacts, Record, WindowFacts
from scalebench.remembered import remembered
from scalebench.stats.pacing import kept, warm_up_tail

NANOSECONDS = 1e-9

MOST_OFF_THE_WALL = 0.005
"""Share by which a window's steps may differ from the wall clock around them."""

Steps = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Window:
    """The timed window of one run: the steps after warm-up, without those that refill the pipeline after a pause.

    Attributes:
        step_seconds: duration of each job step, shape (steps,); None where ranks share no clock (several hosts).
        before_seconds: the same of the steps before the window that must be like those in it, were warm-up over.
        steps: how many.
        wall_seconds: duration of the steps together. Without a shared clock, the longest of the hosts' own: the true
            one is no longer than that.
        items: what throughput counts (tokens, images) over all ranks in the window; None when the record does not say.
        whole_seconds, whole_steps, whole_items: the same from the opening to the end with all that is left out above:
            what counters read at these two moments are divided by.
    """

    step_seconds: npt.NDArray[np.float64] | None
    before_seconds: npt.NDArray[np.float64] | None
    steps: int
    wall_seconds: float
    items: int | None
    whole_seconds: float
    whole_steps: int
    whole_items: int | None

    @property
    def items_per_second(self) -> float | None:
        """Items over wall time, never a mean of rates; None when unknown."""
        return None if self.items is None else self.items / self.wall_seconds


@remembered
def window(record: Record) -> Window | None:
    """The timed window of a run that finished; None for one that did not, or whose boundaries are incomplete."""
    timed, facts = timed_steps(record), record.window
    if timed is None or facts is None:
        return None
    hosts = [job_spans(ranks) for ranks in _by_host(record.ranks)]
    wall = max(int(_lengths(spans)[timed].sum()) for spans in hosts) * NANOSECONDS
    if wall <= 0:
        return None
    shared = _lengths(hosts[0]).astype(np.float64) * NANOSECONDS if len(hosts) == 1 else None
    before = warm_up_tail(facts.first_step)
    calm = _kept(record, facts)[before]
    return Window(
        step_seconds=None if shared is None else shared[timed],
        before_seconds=None if shared is None else shared[before][calm],
        steps=int(timed.sum()),
        wall_seconds=wall,
        items=_items(record, int(timed.sum())),
        whole_seconds=max(end - opening for opening, end in host_windows(record).values()) * NANOSECONDS,
        whole_steps=len(timed) - facts.first_step,
        whole_items=_items(record, len(timed) - facts.first_step),
    )


@remembered
def timed_steps(record: Record) -> Steps | None:
    """Which steps of a run are timed, shape (steps,); None for a run that did not finish or whose ranks disagree."""
    facts, lengths = record.window, {len(rank.step_end_ns) for rank in record.ranks}
    whole = len(record.ranks) == record.spec.world_size and len(lengths) == 1
    if record.kind != "run" or record.status != "ok" or facts is None or not whole:
        return None
    timed = _kept(record, facts)
    timed[: facts.first_step] = False
    return timed if timed.any() and record.spec.steps in (None, timed.sum()) else None


def job_spans(ranks: Sequence[RankFacts]) -> npt.NDArray[np.int64]:
    """Beginning and end of each step of the job, shape (steps, 2), in nanoseconds of the clock that `ranks` share."""
    ends: npt.NDArray[np.int64] = np.array([rank.step_end_ns for rank in ranks], dtype=np.int64).max(axis=0)
    begins = np.concatenate([ends[:1], ends[:-1]])
    for chunks in zip(*(rank.chunks for rank in ranks), strict=True):
        begins[chunks[0].first_step] = max(chunk.start_ns for chunk in chunks)
    return np.stack([begins, ends], axis=1)


def sum_over_wall(record: Record) -> float | None:
    """Sum of the window's steps over the wall clock between its barriers, less 1; of the host where it is furthest off.

    The wall is read from another clock than steps are: in each chunk from when the last rank had left the barrier to
    when the last rank knew that its device was done. Steps that refill the pipeline count on both sides, pauses on
    neither. None when a run has no window or its record no such readings.
    """
    facts = record.window
    if timed_steps(record) is None or facts is None:
        return None
    found = [_sum_over_wall(ranks, facts.first_step) for ranks in _by_host(record.ranks)]
    known = [difference for difference in found if difference is not None]
    return max(known, key=abs) if len(known) == len(found) else None


def _sum_over_wall(ranks: Sequence[RankFacts], first: int) -> float | None:
    wall = 0
    for chunks in zip(*(rank.chunks for rank in ranks), strict=True):
        starts = [chunk.wall_start_ns for chunk in chunks if chunk.wall_start_ns is not None]
        ends = [chunk.wall_end_ns for chunk in chunks if chunk.wall_end_ns is not None]
        if len(starts) + len(ends) < 2 * len(ranks):
            return None
        wall += max(ends) - max(starts) if chunks[0].first_step >= first else 0
    return float(_lengths(job_spans(ranks))[first:].sum()) / wall - 1 if wall > 0 else None


@remembered
def host_windows(record: Record) -> dict[str, tuple[int, int]]:
    """Opening and end of the window on each host, pauses included, in nanoseconds of its clock; empty without one."""
    facts = record.window
    if timed_steps(record) is None or facts is None:
        return {}
    hosts = {ranks[0].host: job_spans(ranks) for ranks in _by_host(record.ranks)}
    return {host: (int(spans[facts.first_step, 0]), int(spans[-1, 1])) for host, spans in hosts.items()}


def _kept(record: Record, facts: WindowFacts) -> Steps:
    rank = record.ranks[0]
    return kept([chunk.first_step for chunk in rank.chunks], len(rank.step_end_ns), facts.refill_steps)


def _lengths(spans: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    lengths: npt.NDArray[np.int64] = spans[:, 1] - spans[:, 0]
    return lengths


def _by_host(ranks: Sequence[RankFacts]) -> list[list[RankFacts]]:
    """Ranks grouped by clock: one host's monotonic clock, to which its CUDA events are anchored too."""
    hosts: dict[str, list[RankFacts]] = {}
    for rank in ranks:
        hosts.setdefault(rank.host, []).append(rank)
    return list(hosts.values())


def _items(record: Record, steps: int) -> int | None:
    if record.workload is None:
        return None
    return record.spec.global_batch * record.workload.items_per_sample * steps


def data_wait_share(record: Record) -> float | None:
    """Share of the window that a rank spent waiting for its next batch, mean over ranks; None when not recorded."""
    measured, timed = window(record), timed_steps(record)
    if measured is None or timed is None or not all(rank.data_wait_ns for rank in record.ranks):
        return None
    waits = [float(np.array(rank.data_wait_ns)[timed].sum()) for rank in record.ranks]
    return float(np.mean(waits)) * NANOSECONDS / measured.wall_seconds


def foreign_cpu_cores(record: Record) -> float | None:
    """CPU cores that others kept busy during the window, on the busiest host; None when not recorded.

    What everything on the host used and what the hypervisor gave to others, less what this run's ranks used there, over
    the time between the readings of these.
    """
    measured = window(record)
    if measured is None:
        return None
    foreign = [_foreign_cores(ranks, measured.whole_seconds) for ranks in _by_host(record.ranks)]
    known = [cores for cores in foreign if cores is not None]
    return max(0.0, max(known)) if len(known) == len(foreign) else None


def _foreign_cores(ranks: Sequence[RankFacts], whole_seconds: float) -> float | None:
    first, own = ranks[0], [rank.cpu_seconds for rank in ranks]
    if first.host_busy_seconds is None or None in own:
        return None
    others = first.host_busy_seconds + (first.host_stolen_seconds or 0.0) - sum(filter(None, own))
    return others / (first.cpu_span_seconds or whole_seconds)
