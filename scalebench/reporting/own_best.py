"""Each strategy at its own best: of the batches and ways of checkpointing that it was measured at, the fastest.

Where the global batch is fixed this is the question that sharding is for: what it saves may become a larger
micro-batch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from scalebench.analysis.cells import Cell, cells, items_per_second, ratio
from scalebench.analysis.parity import failed_parity
from scalebench.records.record import Record

from .experiments import FREE_FIELDS, Experiment, grouped, place_of, spec_name, title_with, titles
from .table import Row, Table, place, table
from .text import times, with_interval

CHECKPOINTING = "activation_checkpointing"
NOTE = (
    "The fastest of the batches and ways of checkpointing that each strategy was measured at; `over matched`: over "
    "itself at the one that most strategies were measured at."
)


def own_best(records: Iterable[Record]) -> list[tuple[Experiment, Table | None]]:
    """The best cells as an experiment, and their table: wherever a strategy's ways differ at equal ranks."""
    ran = list(records)
    checks = [record for record in ran if record.kind == "parity"]
    contests = [members for members in grouped(cells(ran), _contest) if any(map(_differ, _groups(members)))]
    chosen = [sorted(_best(members), key=place_of) for members in contests]
    found = []
    for title, best, members in zip(titles(chosen, _title), chosen, contests, strict=True):
        experiment = Experiment(
            title=title,
            slug="",
            cells=best,
            names={cell: _name(cell) for cell in best},
            untrue=frozenset(cell for cell in best if failed_parity(cell, checks)),
            matched=False,
        )
        found.append((experiment, _table(experiment, members)))
    return found


def _contest(cell: Cell) -> object:
    """What is the same for all that may be compared: of the batch the global one, where it is fixed."""
    fixed = cell.spec.global_batch if cell.spec.scaling == "strong" else None
    return cell.setting(FREE_FIELDS | {CHECKPOINTING}), fixed


def _groups(members: Sequence[Cell]) -> list[list[Cell]]:
    return grouped(members, lambda cell: (cell.spec.world_size, cell.precision))


def _differ(group: Sequence[Cell]) -> bool:
    return len({_way(cell) for cell in group}) > 1


def _way(cell: Cell) -> tuple[int, int, bool]:
    """What a strategy may choose for itself."""
    return cell.spec.micro_batch, cell.spec.accumulation, cell.spec.activation_checkpointing


def _strategy(cell: Cell) -> object:
    spec = cell.spec
    return spec.world_size, cell.precision, spec.strategy, json.dumps(spec.strategy_options, sort_keys=True)


def _best(members: Sequence[Cell]) -> list[Cell]:
    """Of each strategy, number of ranks and precision the fastest cell; where none has figures, the first."""
    return [
        max(group, key=lambda cell: cell.throughput.value if cell.throughput else 0.0)
        for group in grouped(members, _strategy)
    ]


def _matched(group: Sequence[Cell]) -> Sequence[Cell]:
    """The cells of the way that most of the group's strategies were measured in."""
    (way, _), *_ = Counter(map(_way, group)).most_common(1)
    return [cell for cell in group if _way(cell) == way]


def _name(cell: Cell) -> str:
    fields = ["micro_batch", "accumulation"] if cell.spec.accumulation > 1 else ["micro_batch"]
    return spec_name(cell.spec, [*fields, CHECKPOINTING] if cell.spec.activation_checkpointing else fields)


def _title(members: Sequence[Cell]) -> str:
    spec = members[0].spec
    batch = f"global batch {spec.global_batch}" if spec.scaling == "strong" else ""
    return title_with(spec, batch, "each strategy at its own best")


def _table(experiment: Experiment, members: Sequence[Cell]) -> Table | None:
    matched = [cell for group in _groups(members) for cell in _matched(group)]
    rows = [_row(experiment, cell, matched) for cell in experiment.measured]
    return table("Each strategy at its own best", rows, [NOTE])


def _row(experiment: Experiment, cell: Cell, matched: Sequence[Cell]) -> Row:
    spec = cell.spec
    base = next((other for other in matched if _strategy(other) == _strategy(cell) and other.measured), None)
    over = ratio(cell, base, items_per_second).estimate if base and base is not cell else None
    return place(experiment, cell) | {
        "strategy": spec_name(spec),
        "micro-batch": str(spec.micro_batch),
        "accumulation": str(spec.accumulation),
        "checkpointing": "yes" if spec.activation_checkpointing else "no",
        "global batch": str(spec.global_batch),
        f"{cell.item}/s": with_interval(cell.throughput),
        "over matched": "matched" if base is cell else with_interval(over, times),
        "n": str(len(cell.measured)),
    }
