"""Cells in the words that people read: the values of their fields, and the few fields that tell cells apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from scalebench import strategies
from scalebench.spec import RunSpec

FIRST_FIELDS = ("strategy", "world_size", "precision")
"""What every table of cells shows."""
SECTIONS = {"workload_options": "workload", "strategy_options": "strategy", "optimizer": "optimizer"}
"""Fields that hold several values, and what these are called by: `workload.num_layers`, as in `--set`."""
HEADS = {"world_size": "ranks"}


def values(spec: RunSpec) -> dict[str, Any]:
    """A spec's fields; a length that is left to the steps says what ends it."""
    said = spec.model_dump(mode="json") | {"global_batch": spec.global_batch}
    open_ended = {"warmup_steps": "until steady", "steps": f"until the median is known to {spec.target_precision}"}
    return said | {name: words for name, words in open_ended.items() if said[name] is None}


def flat(spec: RunSpec) -> dict[str, Any]:
    """The same with each option on its own: `workload.num_layers`, `strategy.reshard_after_forward`."""
    found: dict[str, Any] = {}
    for name, value in values(spec).items():
        if name in SECTIONS:
            found |= {f"{SECTIONS[name]}.{option}": inner for option, inner in value.items()}
        else:
            found[name] = value
    return found


def shared(specs: Sequence[RunSpec]) -> Iterator[tuple[str, Any]]:
    """The fields that all of `specs` agree in; of options those that they agree in."""
    first, *others = map(values, specs)
    for name, value in first.items():
        if all(row[name] == value for row in others):
            yield name, value
        elif name in SECTIONS:
            same = {key: inner for key, inner in value.items() if all(row[name].get(key) == inner for row in others)}
            if same:
                yield name, same


def varying(specs: Sequence[RunSpec]) -> list[str]:
    """The fields and options in which `specs` differ; of the options of a workload those in which one size does."""
    rows = [flat(spec) for spec in specs]
    models = len({(spec.workload, spec.size) for spec in specs})
    return [
        name for name in _names(rows) if _apart(rows, [*_model_of(name), name]) > (models if _model_of(name) else 1)
    ]


def _model_of(name: str) -> tuple[str, ...]:
    """What an option of a workload follows from, unless it was asked for."""
    return ("workload", "size") if name.startswith("workload.") else ()


def telling(specs: Sequence[RunSpec]) -> list[str]:
    """Strategy, ranks, precision, and as few further fields as tell all of `specs` apart."""
    rows = [flat(spec) for spec in dict.fromkeys(specs)]
    chosen = list(FIRST_FIELDS)
    for name in _names(rows):
        if _apart(rows, [*chosen, name]) > _apart(rows, chosen):
            chosen.append(name)
    return chosen


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _apart(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> int:
    return len({tuple(str(row.get(name)) for name in names) for row in rows})


def head(name: str) -> str:
    """A field's name as the head of a column."""
    return name if "." in name else HEADS.get(name, name).replace("_", " ")


def shown(spec: RunSpec, names: Sequence[str]) -> list[str]:
    """The values of these fields, nothing for an option that the spec does not have."""
    known = flat(spec)
    return [plain(known[name]) if name in known else "" for name in names]


def plain(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def count(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def place(spec: RunSpec) -> tuple[object, ...]:
    """Where a cell stands in a table: strategies that may be compared stand together, in the registry's order."""
    names = list(strategies.entries())
    order = names.index(spec.strategy) if spec.strategy in names else len(names)
    batch = (spec.global_batch, spec.micro_batch)
    return (spec.workload, spec.size, spec.scaling, spec.precision, spec.world_size, *batch, order, spec.cell_id)
