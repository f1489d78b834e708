"""Recorder: two lines in any training script make the record of a run, by the harness's own clock and rule.

recorder = scalebench.Recorder(model, micro_batch=32)
for batch in loader:
    ...                     # forward, backward, optimizer.step()
    recorder.step(loss)
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import nn

from scalebench.errors import UserError
from scalebench.harness.job import Job, Report
from scalebench.harness.loop import Timeline
from scalebench.harness.outcome import success_outcome
from scalebench.harness.phase import Phase
from scalebench.harness.placement import barrier
from scalebench.harness.runner import Session
from scalebench.harness.window import Meters, Pacing, Row
from scalebench.harness.worker import Stages, own_sampler, rank_facts
from scalebench.integrations.loop import SCRIPT, loop_of
from scalebench.integrations.row import OpenRow, Scalar
from scalebench.meters.memory import read_peaks, resident_bytes
from scalebench.records.record import WindowFacts
from scalebench.records.store import require_writable
from scalebench.stats.pacing import REFILL_STEPS, Chunk, Stopped


class Recorder:
    """Times the steps of a loop that is not scalebench's, and records them as a run.

    Construct it on every rank when model and process group are ready, just before the loop, and call `step` where an
    optimizer step has ended. Its first steps are the warm-up. When the rule of `scalebench run` has seen enough
    (`done`), rank 0 writes the record, and further steps cost nothing. Used as a context manager it also records a loop
    that ends before that.

    While it times, automatic garbage collection is off, as in every run, and now and then all ranks wait for each
    other, off the clock.

    Args:
        model: what is trained, wrapped or not: its parameters are counted, and its device is the one that is timed.
        optimizer: only to note its settings.
        like: path of a record of `scalebench run`, beside which this loop is to stand: it trains the same. Its spec is
            taken over, with threads and cores; what is given here goes before it.
        named: what stands in the column of strategies.
        results: folder that the record goes to. session, repeat: to make several processes repeats of one cell.
        given: fields of a spec (micro_batch, which is needed without `like`; accumulation, precision, steps, ...) and
            of WorkloadFacts (item, items_per_sample, flops_per_sample, ...).

    Raises UserError for wrong arguments and for a folder that cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        like: str | Path | None = None,
        named: str = SCRIPT,
        results: str | Path = "results",
        session: str | None = None,
        repeat: int = 0,
        **given: Any,
    ) -> None:
        self._loop = loop_of(model, Path(like) if like else None, named, optimizer, given)
        self._place = self._loop.place
        self._run = self._loop.planned(repeat)
        self._results, self._session = Path(results), session
        if self._place.rank == 0:
            require_writable(self._results)
        self._started, self._stages = datetime.now(UTC), Stages(time.monotonic_ns())
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._resident_before = resident_bytes()
        self._meters = Meters(place=self._place, phase=Phase(None, self._place.rank))
        self._sensing = contextlib.ExitStack()
        self._sampler = self._sensing.enter_context(own_sampler(Job(run=self._run), self._place))
        self._chunks: list[Timeline] = []
        self._first: int | None = None
        self._row: OpenRow | None = None
        self._pacing = Pacing(self._loop.spec, self._place, self._group)
        atexit.register(self._complain)
        self._go_on(self._pacing.begin())

    @property
    def done(self) -> bool:
        """Whether enough was measured: a script may stop here."""
        return self._row is None

    def step(self, loss: Scalar = None, grad_norm: Scalar = None) -> None:
        """An optimizer step has just ended on this rank; `loss` is its mean loss here, `grad_norm` the global norm
        before clipping. On every rank."""
        if self._row is None:
            return
        self._row.step_ended(loss, grad_norm)
        if self._row.full:
            self._end_row(self._row)
            self._go_on(self._pacing.go_on(self._chunks[-1]))

    def close(self) -> None:
        """Record what there is of a loop that has ended early. On every rank; nothing happens once `done`."""
        if self._row is None:
            return
        self._end_row(self._row)
        if self._first is not None and self._steps - self._first > REFILL_STEPS:
            self._finish("ended")
        else:
            self._complain()
            self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._row is not None:
            self._end_row(self._row)
            self._leave()

    @property
    def _steps(self) -> int:
        return sum(len(timeline.step_end_ns) for timeline in self._chunks)

    def _go_on(self, chunk: Chunk | Stopped) -> None:
        """Begin the next row of steps, or end."""
        if not isinstance(chunk, Chunk):
            self._finish(chunk)
            return
        opens = chunk.opens

        def ready() -> None:
            if opens:
                self._meters.open()
            barrier(self._place.device)

        if opens:
            self._first = self._steps
        self._row = OpenRow(chunk.steps, self._place.device, ready)

    def _end_row(self, row: OpenRow) -> None:
        timeline = row.close()
        if row.count:
            self._chunks.append(timeline)
        self._meters.close()

    def _finish(self, stopped: Any) -> None:
        """Gather what every rank saw; rank 0 writes the record."""
        assert self._first is not None, "a rule opens the window before it ends the run"
        window = WindowFacts(first_step=self._first, refill_steps=REFILL_STEPS, stopped=stopped)
        report = self._report(Row(chunks=self._chunks, window=window))
        self._leave()
        reports = self._gathered(report.with_sensors(self._sampler.facts()))
        if reports:
            self._write(reports)

    def _report(self, row: Row) -> Report:
        self._stages.mark("first_step", row.chunks[0].step_end_ns[0])
        memory = read_peaks(self._place.device, self._resident_before)
        return Report(
            window=row.window,
            facts=rank_facts(self._place, row, self._meters, memory, 0, self._stages),
            workload=self._loop.facts,
            unmatched=self._loop.unmatched,
        )

    def _gathered(self, report: Report) -> list[Report]:
        """Every rank's report on rank 0, nothing elsewhere."""
        if self._group is None:
            return [report]
        reports: list[Any] | None = [None] * self._place.world_size if self._place.rank == 0 else None
        dist.gather_object(report, reports, group=self._group)
        return reports or []

    def _write(self, reports: list[Report]) -> None:
        """A record that cannot be written is told, and ends no training."""
        try:
            session = Session(self._results, [self._run], self._loop.machine, name=self._session)
            record, path = session.keep(self._run, success_outcome(reports), started=self._started)
            _tell([f"scalebench: {record.status}, recorded as {path}"])
        except (UserError, OSError) as error:
            _tell([f"scalebench: not recorded: {error}"])

    def _leave(self) -> None:
        self._row = None
        self._sensing.close()
        atexit.unregister(self._complain)

    def _complain(self) -> None:
        if self._place.rank == 0:
            _tell(
                [
                    f"scalebench: the loop ended after {self._steps + (self._row.count if self._row else 0)} steps, "
                    "before enough of them were timed: nothing is recorded. Train longer, give Recorder fewer steps "
                    "(steps=20, warmup_steps=5, max_seconds=None, target_precision=None), or use it in a `with`."
                ]
            )


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
