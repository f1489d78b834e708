"""What searches found, from the records of their trials: what fits, what does not, and what was fastest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scalebench.records.record import Record
from scalebench.spec import RunSpec
from scalebench.stats.intervals import Estimate
from scalebench.stats.within_run import median_interval

from . import cells
from .cells import machine, ordered
from .steps import window


@dataclass(frozen=True, kw_only=True, eq=False)
class Searched:
    """One search: its trials in the order they ran, of which the last of each cell counts.

    Attributes:
        largest: a trial of the largest value that fits, which is below all that do not; None: nothing does.
        refused: a trial of the smallest value that does not; None: everything did.
        timed: of the values that fit, the trials whose throughput was compared, ascending.
    """

    trials: Sequence[Record]
    largest: Record | None
    refused: Record | None
    timed: Sequence[Record]

    @property
    def spec(self) -> RunSpec:
        """Any of its cells, for what all of them share."""
        return self.trials[-1].spec

    @property
    def fastest(self) -> Record | None:
        """The timed trial of the highest throughput."""
        return max(self.timed, key=lambda trial: items_per_second(trial) or 0.0, default=None)

    @property
    def untold(self) -> list[Record]:
        """The other timed trials that may be as fast: by intervals within the runs, where both have one."""
        best = self.fastest and throughput(self.fastest)
        rates = [(trial, throughput(trial)) for trial in self.timed if trial is not self.fastest]
        return [trial for trial, rate in rates if best and rate and _may_be_as_fast(rate, best)]


def searches(records: Iterable[Record]) -> list[Searched]:
    """Every search among `records`, in the order they began."""
    found: dict[tuple[str, str, str, int], list[Record]] = {}
    for record in ordered(records):
        if record.trial:
            key = (record.trial.search, record.trial.sought, str(machine(record)), record.method)
            found.setdefault(key, []).append(record)
    return [_searched(trials) for trials in found.values()]


def _searched(trials: Sequence[Record]) -> Searched:
    last = list({trial.spec: trial for trial in trials}.values())
    refused = min((trial for trial in last if trial.status != "ok"), key=value_of, default=None)
    fitting = sorted((t for t in last if refused is None or value_of(t) < value_of(refused)), key=value_of)
    return Searched(
        trials=trials,
        largest=fitting[-1] if fitting else None,
        refused=refused,
        timed=[trial for trial in fitting if trial.spec.steps is None],
    )


def _may_be_as_fast(rate: Estimate, best: Estimate) -> bool:
    return rate.high is None or best.low is None or rate.high >= best.low


def items_per_second(trial: Record) -> float | None:
    """Throughput over a trial's own window; None when there is none."""
    return cells.items_per_second(as_run(trial))


def as_run(trial: Record) -> Record:
    """`trial` with the figures that a run would have: elsewhere it has none, so that it is not taken for one."""
    return trial.model_copy(update={"kind": "run"})


def value_of(trial: Record) -> int:
    """What was tried: a micro-batch, or the parameters of a size."""
    assert trial.trial
    return trial.trial.value


def throughput(trial: Record) -> Estimate | None:
    """Items per second by the median of its steps, with the interval within this run; None without a window."""
    measured, rate = window(as_run(trial)), items_per_second(trial)
    if measured is None or rate is None:
        return None
    if measured.step_seconds is None:
        return Estimate(value=rate, processes=1, within_run=True)
    items = rate * measured.wall_seconds / len(measured.step_seconds)
    step = median_interval(measured.step_seconds)
    low, high = (None if end is None else items / end for end in (step.high, step.low))
    return Estimate(value=items / step.value, low=low, high=high, processes=1, within_run=True)
