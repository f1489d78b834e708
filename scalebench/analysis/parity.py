"""Which parity checks speak for a cell: the same workload, strategy, options, ranks and precision on this machine."""

from __future__ import annotations

from collections.abc import Iterable

from scalebench.records.record import Record

from .cells import Cell, machine, ordered


def checks_of(cell: Cell, records: Iterable[Record]) -> list[Record]:
    """The parity checks among `records` that speak for `cell`, in the order they ran."""
    wanted = _key(cell.records[0])
    return ordered(record for record in records if record.kind == "parity" and _key(record) == wanted)


def failed_parity(cell: Cell, records: Iterable[Record]) -> bool:
    """Whether the latest check of `cell` that came to a verdict was not passed; False when there is none."""
    return failed_parity_of(checks_of(cell, records)) is True


def failed_parity_of(checks: Iterable[Record]) -> bool | None:
    """Whether the latest of these parity checks that came to a verdict was not passed; None when none did."""
    verdicts = [record.parity.passed for record in ordered(checks) if record.parity]
    return not verdicts[-1] if verdicts else None


def _key(record: Record) -> tuple[object, ...]:
    spec = record.spec
    options = tuple(sorted((name, str(value)) for name, value in spec.strategy_options.items()))
    place = (spec.device, spec.world_size, str(machine(record)))
    return (spec.workload, spec.strategy, options, spec.precision, spec.tf32, spec.profile, *place)
