"""Cells: the processes that measured one spec on one kind of machine, and when two cells may be compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from scalebench.records.environment import machine_facts
from scalebench.records.probe import Probe
from scalebench.records.record import Record
from scalebench.spec import RunSpec
from scalebench.stats.intervals import Estimate, geometric_mean, geometric_ratio

from .steps import window

NOT_A_SETTING = {"timeout_seconds", "diagnostics", "debug"}
STRATEGY_FIELDS = {"strategy", "strategy_options", "grad_sync"}
BATCH_FIELDS = {"micro_batch", "accumulation"}
PRECISION_FIELDS = {"precision", "tf32"}

Value = Callable[[Record], float | None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A ratio of two cells, or None and why there is none. `caution` is what a reader must know beside the number."""

    estimate: Estimate | None = None
    reason: str | None = None
    caution: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """Every `run` record of one spec on one kind of machine, in the order they ran. Compared by identity."""

    spec: RunSpec
    data_sha256: str | None
    records: tuple[Record, ...]

    def setting(self, without: Iterable[str] = ()) -> tuple[str, str | None]:
        """What figures depend on, but for the spec's fields `without`: cells of equal settings compare fairly."""
        return setting(self.records[0], without), self.data_sha256

    @cached_property
    def measured(self) -> list[Record]:
        """The records whose figures count; see `not_measured_because`."""
        return [record for record in self.records if record.status == "ok" and not_measured_because(record) is None]

    def values(self, value: Value, session: str | None = None) -> list[float]:
        """`value` of each measured process that has one, of one session or of all."""
        chosen = (record for record in self.measured if session in (None, record.session))
        return [figure for record in chosen if (figure := value(record)) is not None]

    def estimate(self, value: Value) -> Estimate | None:
        """Geometric mean of `value` over processes with its interval; None when no process has one."""
        values = self.values(value)
        return geometric_mean(values) if values else None

    @property
    def throughput(self) -> Estimate | None:
        """Items per second over all ranks."""
        return self.estimate(items_per_second)

    @property
    def sessions(self) -> list[str]:
        """The sessions that measured this cell, in the order they began."""
        return list(dict.fromkeys(record.session for record in self.measured))

    @property
    def precision(self) -> str:
        """The precision as people say it: fp32 matrix products in TF32 are `tf32`."""
        return "tf32" if self.spec.tf32 else self.spec.precision

    @property
    def item(self) -> str:
        """What throughput counts, in the plural."""
        return next((f"{record.workload.item}s" for record in self.records if record.workload), "items")


def items_per_second(record: Record) -> float | None:
    """Throughput of one process group over its window; None when there is none."""
    measured = window(record)
    return measured.items_per_second if measured else None


def not_measured_because(record: Record) -> str | None:
    """Why an `ok` run shows no speed that may stand in a table, or None for a measurement."""
    if record.functional_only:
        return f"functional only: {record.functional_only}"
    if record.oversubscribed:
        return "oversubscribed: more ranks than cores"
    if not record.comparable:
        return "not comparable: " + ("; ".join(record.not_comparable_because) or "no reason recorded")
    return "no complete step times" if window(record) is None else None


def ordered(records: Iterable[Record]) -> list[Record]:
    """Records in the order they ran, however they were given, each once: a copied file is no second process."""
    distinct = {(record.session, record.file_name): record for record in records}
    return sorted(distinct.values(), key=lambda r: (r.started_at, r.session, r.order, r.file_name))


def cells(records: Iterable[Record]) -> list[Cell]:
    """`run` records gathered into cells, in the order the cells first ran."""
    runs = [record for record in ordered(records) if record.kind == "run"]
    data = {_data_setting(record): record.workload.data_sha256 for record in reversed(runs) if record.workload}
    found: dict[tuple[str, str | None], list[Record]] = {}
    for record in runs:
        # a run that failed before it read its data belongs with those that did read them
        sha = record.workload.data_sha256 if record.workload else data.get(_data_setting(record))
        found.setdefault((setting(record), sha), []).append(record)
    return [Cell(spec=members[0].spec, data_sha256=sha, records=tuple(members)) for (_, sha), members in found.items()]


def _data_setting(record: Record) -> str:
    """What the data of a run depend on: they are the same for all strategies, ranks, batches and precisions."""
    return setting(record, {*STRATEGY_FIELDS, *BATCH_FIELDS, *PRECISION_FIELDS, "world_size"})


def setting(record: Record, without: Iterable[str] = ()) -> str:
    """Canonical text of what a record's figures depend on, but for the spec's fields `without`."""
    spec = record.spec.model_dump(mode="json", exclude={*NOT_A_SETTING, *without})
    return json.dumps([spec, machine(record), record.method], sort_keys=True)


def machine(record: Record | Probe) -> dict[str, object]:
    """The facts of machine and software that a speed depends on."""
    return machine_facts(record.environment)


def ratio(top: Cell, bottom: Cell, value: Value) -> Comparison:
    """`value` of `top` over `bottom`, from the sessions that measured both, since only those were randomised together.

    Cells that share no session give the ratio without an interval and say so: who knows what changed in between.
    """
    shared = [session for session in top.sessions if session in bottom.sessions]
    if not shared:
        return _unshared(top.values(value), bottom.values(value))
    above, below = ([v for s in shared for v in cell.values(value, s)] for cell in (top, bottom))
    if not above or not below:
        return Comparison(reason="not recorded")
    return Comparison(estimate=geometric_ratio(above, below))


def _unshared(above: Sequence[float], below: Sequence[float]) -> Comparison:
    if not above or not below:
        return Comparison(reason="not recorded")
    value = geometric_mean(above).value / geometric_mean(below).value
    return Comparison(estimate=Estimate(value=value, processes=1), caution="baseline measured in another session")
