"""The job's step times and throughput from its ranks' step boundaries.

Job step k runs from the last rank's boundary k-1 to the last rank's boundary k, so that steps sum to the window's wall
time exactly. (The largest of the ranks' durations, step by step, would count jitter that one rank gains and another
loses, and overstate time the more the more ranks there are.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalebench.records.record import RankFacts, Record

NANOSECONDS = 1e-9


@dataclass(frozen=True, kw_only=True)
class Window:
    """The timed window of one run: the steps after warm-up.

    Attributes:
        step_seconds: duration of each job step, shape (steps,); None where ranks share no clock (several hosts).
        wall_seconds: duration of the window. Without a shared clock, the longest of the hosts' own windows: the true
            one is no longer than that.
        items: what throughput counts (tokens, images) over all ranks in the window; None when the record does not say.
    """

    step_seconds: npt.NDArray[np.float64] | None
    wall_seconds: float
    items: int | None

    @property
    def items_per_second(self) -> float | None:
        """Items over wall time, never a mean of rates; None when unknown."""
        return None if self.items is None else self.items / self.wall_seconds


def window(record: Record) -> Window | None:
    """The timed window of a run that finished; None for one that did not, or whose boundaries are incomplete."""
    warmup, steps = record.spec.warmup_steps, record.spec.steps
    whole = len(record.ranks) == record.spec.world_size and all(
        len(rank.step_end_ns) >= warmup + steps for rank in record.ranks
    )
    if record.kind != "run" or record.status != "ok" or not whole:
        return None
    hosts = [job_boundaries(ranks)[warmup - 1 : warmup + steps] for ranks in _by_host(record.ranks)]
    wall = max(float(ends[-1] - ends[0]) for ends in hosts) * NANOSECONDS
    if wall <= 0:
        return None
    step_seconds = np.diff(hosts[0]) * NANOSECONDS if len(hosts) == 1 else None
    return Window(step_seconds=step_seconds, wall_seconds=wall, items=_items(record))


def job_boundaries(ranks: Sequence[RankFacts]) -> npt.NDArray[np.int64]:
    """When the last of `ranks` ended each step, shape (steps,), in nanoseconds of the clock they share."""
    ends: npt.NDArray[np.int64] = np.array([rank.step_end_ns for rank in ranks], dtype=np.int64).max(axis=0)
    return ends


def host_windows(record: Record) -> dict[str, tuple[int, int]]:
    """Begin and end of the window on each host, in nanoseconds of its own clock; empty when there is no window."""
    if window(record) is None:
        return {}
    first, last = record.spec.warmup_steps - 1, record.spec.warmup_steps + record.spec.steps - 1
    hosts = {ranks[0].host: job_boundaries(ranks) for ranks in _by_host(record.ranks)}
    return {host: (int(ends[first]), int(ends[last])) for host, ends in hosts.items()}


def _by_host(ranks: Sequence[RankFacts]) -> list[list[RankFacts]]:
    """Ranks grouped by clock: one host's monotonic clock, to which its CUDA events are anchored too."""
    hosts: dict[str, list[RankFacts]] = {}
    for rank in ranks:
        hosts.setdefault(rank.host, []).append(rank)
    return list(hosts.values())


def _items(record: Record) -> int | None:
    if record.workload is None:
        return None
    return record.spec.global_batch * record.workload.items_per_sample * record.spec.steps


def data_wait_share(record: Record) -> float | None:
    """Share of the window that a rank spent waiting for its next batch, mean over ranks; None when not recorded."""
    measured, first = window(record), record.spec.warmup_steps
    if measured is None or not all(rank.data_wait_ns for rank in record.ranks):
        return None
    waits = [sum(rank.data_wait_ns[first : first + record.spec.steps]) for rank in record.ranks]
    return float(np.mean(waits)) * NANOSECONDS / measured.wall_seconds


def foreign_cpu_cores(record: Record) -> float | None:
    """CPU cores that other programs kept busy during the window, on the busiest host; None when not recorded.

    What everything on the host used, less what this run's ranks used there, over the window's wall time.
    """
    measured = window(record)
    if measured is None:
        return None
    foreign = [_foreign_seconds(ranks) for ranks in _by_host(record.ranks)]
    known = [seconds for seconds in foreign if seconds is not None]
    return max(0.0, max(known)) / measured.wall_seconds if len(known) == len(foreign) else None


def _foreign_seconds(ranks: Sequence[RankFacts]) -> float | None:
    busy, own = ranks[0].host_busy_seconds, [rank.cpu_seconds for rank in ranks]
    if busy is None or None in own:
        return None
    return busy - sum(seconds for seconds in own if seconds is not None)
