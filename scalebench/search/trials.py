"""Trials: short real runs of a cell, each stored as a record of its own kind, and none made that is stored already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scalebench import workloads
from scalebench.analysis.trials import items_per_second
from scalebench.harness.resume import standing
from scalebench.harness.runner import Session
from scalebench.harness.stop import Stop
from scalebench.records.record import Record, Status
from scalebench.search.question import Question
from scalebench.spec import PlannedRun, RunSpec, Trial

FIT = {"warmup_steps": 2, "steps": 2, "target_precision": None, "max_seconds": None, "diagnostics": False}
"""Six steps in all, with those after the pause: moments are there from the second on, ZeRO-3's order from the third."""
TIMED_SECONDS = 5.0
TIMED = {"warmup_steps": 4, "steps": None, "target_precision": 0.02, "diagnostics": False}
AGAIN: tuple[Status, ...] = ("failed", "timeout")
"""Outcomes that say nothing about memory: the trial is made again, and does not count where it is stored."""
TRIES = 2


class Trials:
    """The trials of one search; what one of them said holds for all of it.

    Args:
        session: whose launcher and folder they use.
        results: where stored ones are looked for; None: nowhere.
        tell: called with each trial's record.
        stop: says when somebody asks to stop.
    """

    def __init__(
        self, session: Session, results: Path | None, tell: Callable[[Record], None], stop: Stop | None = None
    ) -> None:
        self._session, self._results, self._tell, self._stop = session, results, tell, stop or Stop()
        self.records: dict[RunSpec, Record] = {}
        self._refused: set[RunSpec] = set()

    def fits(self, question: Question, value: int) -> bool:
        """Whether a few steps of the cell run, and no longer run of it was refused."""
        short = question.cell(value).model_copy(update=FIT)
        return short not in self._refused and self._record(question, short).status == "ok"

    def throughput(self, question: Question, value: int) -> float | None:
        """Items per second over some seconds. None when they did not end well: then `value` does not fit either."""
        spec = question.cell(value)
        seconds = min(TIMED_SECONDS, spec.max_seconds or TIMED_SECONDS)
        record = self._record(question, spec.model_copy(update={**TIMED, "max_seconds": seconds}))
        if record.status != "ok":
            self._refused.add(spec.model_copy(update=FIT))
        return items_per_second(record)

    def _record(self, question: Question, spec: RunSpec) -> Record:
        if spec not in self.records:
            run = PlannedRun(spec=spec, kind="trial", trial=trial_of(question, spec))
            self.records[spec] = self._stored(run) or self._made(run)
            self._tell(self.records[spec])
        return self.records[spec]

    def _stored(self, run: PlannedRun) -> Record | None:
        recorded = standing([run], self._results, AGAIN).recorded if self._results else ()
        return next((record for record, _ in recorded if record.trial == run.trial), None)

    def _made(self, run: PlannedRun) -> Record:
        for repeat in range(TRIES):
            again = run.model_copy(update={"repeat": repeat})
            record, _ = self._session.perform(len(self.records), again, lambda phase: None, self._stop)
            if self._stop() or record.status == "interrupted":
                raise KeyboardInterrupt
            if record.status not in AGAIN:
                break
        return record


def trial_of(question: Question, spec: RunSpec) -> Trial:
    """What a trial of `spec` is made for."""
    value = spec.micro_batch
    if question.sought == "size":
        value = workloads.resolve_config(spec.workload, spec.size, spec.workload_options).parameter_count
    first = (question.before or question).smallest.model_copy(update=FIT)
    return Trial(sought=question.sought, value=value, search=first.cell_id)
