"""Which cells of two sides are the same cell, and why two of them must not be compared all the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from scalebench.analysis.cells import NOT_A_SETTING, Cell, cells, machine, not_measured_because
from scalebench.records.record import Contract, Record
from scalebench.spec import RunSpec

NOT_OF_THE_CONTRACT = {"flops_per_step", "observer_notes"}
"""The former is a metric, the latter are words."""
TOLD = ("torch", "deepspeed", "python", "driver", "cuda", "nccl")
"""Versions that may differ, and are told."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """The records of one spec on both sides.

    Attributes:
        spec: as on the new side, or on the baseline's where that has none.
        base, new: the cells; None where a side has no such cell.
        checks: the parity checks of both sides.
        refused: why figures must not be compared; None where they may be.
        broken: why the new side is worse whatever its figures: it fails where the baseline ran, or ran something else.
        notes: what differs and does not forbid it.
    """

    spec: RunSpec
    base: Cell | None = None
    new: Cell | None = None
    checks: tuple[tuple[Record, ...], tuple[Record, ...]] = ((), ())
    refused: str | None = None
    broken: str | None = None
    notes: list[str] = field(default_factory=list)


def match(base: Iterable[Record], new: Iterable[Record]) -> list[Match]:
    """Every cell of either side, those of the new side first, in the order they ran."""
    sides = _by_spec(base), _by_spec(new)
    keys = dict.fromkeys([*sides[1], *sides[0]])
    return [_matched(sides[0].get(key, []), sides[1].get(key, [])) for key in keys]


def match_as_asked(base: Sequence[Record], new: Sequence[Record], *, differ: bool) -> Match:
    """The records of one cell on each side, measured in turn to see what a difference makes: that of their specs, or of
    the versions that ran them (`differ`)."""
    found = _matched(base, new, asked=differ or spec_key(base[-1].spec) != spec_key(new[-1].spec))
    found.notes.extend(spec_changes(base[-1].spec, new[-1].spec))
    return found


def spec_changes(base: RunSpec, new: RunSpec) -> list[str]:
    """What is asked otherwise, field by field."""
    before, after = (whatever_source(spec).model_dump(mode="json", exclude=NOT_A_SETTING) for spec in (base, new))
    return [changed(name, before[name], after[name]) for name in before if before[name] != after[name]]


def whatever_source(spec: RunSpec) -> RunSpec:
    """`spec` without the folder and the text of a user's own file: these are what is under test, not what is asked."""
    return spec.model_copy(update={"workload": os.path.basename(spec.workload), "workload_sha256": None})


def _by_spec(records: Iterable[Record]) -> dict[str, list[Record]]:
    """By what is asked; files of one name in several folders of a side are several cells all the same."""
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.started_at, record.order)):
        if record.kind != "trial":
            found.setdefault(spec_key(record.spec), []).append(record)
    return {key: group for asked, records in found.items() for key, group in _by_file(asked, records).items()}


def _by_file(asked: str, records: Sequence[Record]) -> dict[str, list[Record]]:
    files = list(dict.fromkeys(record.spec.workload for record in records))
    if len(files) == 1:
        return {asked: list(records)}
    return {f"{file} {asked}": [record for record in records if record.spec.workload == file] for file in files}


def spec_key(spec: RunSpec) -> str:
    """The same for specs that ask for the same work."""
    return json.dumps(whatever_source(spec).model_dump(mode="json", exclude=NOT_A_SETTING), sort_keys=True)


def _cells(records: Sequence[Record]) -> list[Cell]:
    """Those of one spec, whatever the source: a baseline's sessions may be of several revisions."""
    return cells([record.model_copy(update={"spec": whatever_source(record.spec)}) for record in records])


def _matched(base: Sequence[Record], new: Sequence[Record], asked: bool = False) -> Match:
    new_cell = _latest(_cells(new))
    base_cell = _likest(_cells(base), new_cell) if new_cell else _latest(_cells(base))
    refused = broken = None
    notes: list[str] = []
    if base_cell is not None and new_cell is not None:
        refused, broken = judged(base_cell, new_cell, asked)
        notes += _told(base_cell.records[-1], new_cell.records[-1])
        if base[-1].spec.workload_sha256 != new[-1].spec.workload_sha256:
            notes.append(f"{new[-1].spec.model_name} has changed")
        if None in (observed(base_cell), observed(new_cell)):
            notes.append("what ran was not observed on both sides, so that its precision may have changed")
    return Match(
        spec=(list(new) or list(base))[-1].spec,
        base=base_cell,
        new=new_cell,
        checks=(_parity_checks(base), _parity_checks(new)),
        refused=refused,
        broken=broken,
        notes=notes,
    )


def _parity_checks(records: Sequence[Record]) -> tuple[Record, ...]:
    return tuple(record for record in records if record.kind == "parity")


def _latest(found: Sequence[Cell]) -> Cell | None:
    return max(found, key=lambda cell: cell.records[-1].started_at, default=None)


def _likest(found: Sequence[Cell], new: Cell) -> Cell | None:
    """Of the cells that the baseline has of this spec (machines, versions, data), one that may be compared."""
    allowed = [cell for cell in found if judged(cell, new, asked=False)[0] is None]
    alike = [cell for cell in allowed if machine(cell.records[-1]) == machine(new.records[-1])]
    return _latest(alike or allowed or found)


def judged(base: Cell, new: Cell, asked: bool) -> tuple[str | None, str | None]:
    """Why the figures of two cells must not be compared, and why the new one is worse without them; None and None."""
    ended = _ended(new)
    if ended:
        return ended, None if _ended(base) else ended
    if _ended(base):
        return f"baseline: {_ended(base)}", None
    one, other = base.measured[-1], new.measured[-1]
    reasons = list(_differences(one, other, asked))
    same_work = spec_key(base.spec) == spec_key(new.spec)
    contract = contract_changes(observed(base), observed(new)) if same_work else []
    refused = [*reasons, *contract]
    return "; ".join(refused) or None, "; ".join(contract) if contract and not reasons else None


def _ended(cell: Cell) -> str | None:
    """Why a cell has no figures; None when it has."""
    if cell.measured:
        return None
    last = cell.records[-1]
    if last.status == "ok":
        return not_measured_because(last)
    return f"{last.status}: {last.reason or 'no reason recorded'}"


def _differences(base: Record, new: Record, asked: bool) -> Iterator[str]:
    """What of machine, method and data differs that must not. When `asked`, data and versions may be the question."""
    facts: list[tuple[str, object, object]] = [("method", base.method, new.method)]
    facts += [("GPUs", gpus_of(base), gpus_of(new))]
    facts += [(name, base.environment.get(name), new.environment.get(name)) for name in ("cpu_model", "cores")]
    if not asked:
        facts += [("torch", _torch(base), _torch(new)), ("data", _data(base), _data(new))]
    yield from (changed(name, before, after) for name, before, after in facts if before != after)


def _torch(record: Record) -> str:
    """`2.13` of `2.13.0+cpu`."""
    return ".".join(str(record.environment.get("torch")).split(".")[:2])


def _data(record: Record) -> str | None:
    return record.workload.data_sha256 if record.workload else None


def gpus_of(record: Record) -> str | None:
    """`8 × Example GPU`: the names of the ranks' GPUs; None on a CPU."""
    names = [rank.device_name or "unknown" for rank in record.ranks]
    if record.spec.device != "cuda":
        return None
    return " and ".join(f"{names.count(name)} × {name}" for name in sorted(set(names)))


def observed(cell: Cell) -> Contract | None:
    """What ran the last time somebody looked; None where nobody did (--no-diagnostics)."""
    return next((record.contract for record in reversed(cell.measured) if record.contract), None)


def contract_changes(base: Contract | None, new: Contract | None) -> list[str]:
    """What was observed to run otherwise than before, field by field; nothing where nobody looked."""
    if base is None or new is None:
        return []
    before, after = (contract.model_dump(exclude=NOT_OF_THE_CONTRACT) for contract in (base, new))
    return [changed(name, before[name], after[name]) for name in before if before[name] != after[name]]


def changed(name: str, before: object, after: object) -> str:
    """`gradient_reduce bfloat16 -> float32`."""
    return " ".join(f"{name} {before} -> {after}".split())


def _told(base: Record, new: Record) -> Iterator[str]:
    for name in TOLD:
        before, after = base.environment.get(name), new.environment.get(name)
        if before != after:
            yield changed(name, before, after)
