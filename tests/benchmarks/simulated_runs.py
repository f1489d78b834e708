"""Runs whose step times are scripted: the harness's own chunks and rule, its record, and what analysis says of it.

Nothing but the execution of the steps is replaced: `run_row` asks for chunks as in any run, what it returns becomes a
record, and the window, its interval and what speaks against it come from the functions that reports call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from scalebench.analysis.steps import timed_steps, window
from scalebench.analysis.unsteady import of_steps
from scalebench.harness.loop import Timeline
from scalebench.harness.placement import Place
from scalebench.harness.window import Pacing, run_row
from scalebench.records.record import Record
from scalebench.stats.within_run import median_interval
from tests.benchmarks.series import Series
from tests.unit.factory import make_rank, make_spec

STEP_NS = 10_000_000
PAUSE_NS = 1_000_000
ALONE = Place(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a simulated run reports: whether its interval covers the true median, by how much its median differs from
    what the same steps had given without their warm-up, and what speaks against it."""

    covers: bool
    shift: float
    flags: frozenset[str]
    steps: int
    warm_up_steps: int


class Script:
    """Runs steps that take as long as is written, one unit being `STEP_NS`."""

    def __init__(self, durations: Series) -> None:
        self._lengths = np.rint(durations * STEP_NS).astype(np.int64)
        self._done, self._now = 0, 0

    def run(self, steps: int, opening: Callable[[], None]) -> Timeline:
        opening()
        chunk = self._lengths[self._done : self._done + steps]
        assert len(chunk) == steps, "the script is too short"
        start = self._now + PAUSE_NS
        ends = (start + np.cumsum(chunk)).tolist()
        self._done, self._now = self._done + steps, ends[-1]
        return Timeline(start_ns=start, end_ns=ends[-1], wall_start_ns=start, wall_end_ns=ends[-1], step_end_ns=ends)


class NoMeters:
    def open(self) -> None: ...
    def close(self) -> None: ...


def simulate(durations: Series, **length: object) -> Record:
    """The record of a run whose steps take `durations`; `length` are the spec's fields that say how long it is."""
    spec = make_spec(**length)
    row = run_row(Script(durations).run, Pacing(spec, ALONE), NoMeters())  # type: ignore[arg-type]
    ends = row.joined(lambda timeline: timeline.step_end_ns)
    rank = make_rank(0, ends, chunks=row.chunk_facts(), losses=[])
    named = {"session": "simulated", "repeat": 0, "order": 0, "started_at": "", "wall_seconds": 0.0}
    return Record(spec=spec, status="ok", window=row.window, ranks=[rank], **named)


def outcome(record: Record, still: Series, median: float = 1.0) -> Outcome:
    """`still`: the same steps without their warm-up; `median`: their true one."""
    measured, timed = window(record), timed_steps(record)
    assert measured is not None
    assert measured.step_seconds is not None
    assert record.window is not None
    estimate, true = median_interval(measured.step_seconds), median * STEP_NS / 1e9
    without = float(np.median(still[: len(timed)][timed])) * STEP_NS / 1e9
    return Outcome(
        covers=estimate.low is not None and estimate.high is not None and estimate.low <= true <= estimate.high,
        shift=estimate.value / without - 1,
        flags=frozenset(one.kind for one in of_steps(record)),
        steps=measured.steps,
        warm_up_steps=record.window.first_step,
    )
