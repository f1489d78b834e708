"""Table of the loader: what it gives alone, how long steps wait for it, how many workers would end that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scalebench.analysis.loading import Loading, loading

from .experiments import Experiment
from .table import Row, Table, place, table
from .text import UNKNOWN, figure, percent


def data_loading(experiment: Experiment) -> Table | None:
    """Steps per second needed and given with so many workers; None when no loader was measured."""
    rows: list[Row] = []
    for cell in experiment.measured:
        found = [facts for record in cell.measured if (facts := loading(record))]
        counts = sorted({workers for facts in found for workers in facts.rates})
        if found:
            rows.append(
                place(experiment, cell)
                | {"strategy": experiment.names[cell], "workers": str(cell.spec.num_workers)}
                | {"data wait": _mean(found, lambda facts: facts.wait_share, percent)}
                | {"steps/s needed": _mean(found, lambda facts: facts.needed, figure)}
                | {f"loader alone, {n} workers": _mean(found, _rate(n), figure) for n in counts}
                | {"to end the wait": _remedy(found)}
            )
    columns = list(dict.fromkeys(name for row in rows for name in row))
    filled = [{name: row.get(name, UNKNOWN) for name in columns} for row in rows]
    return table("Data loading", filled, ["Of the slowest rank, all ranks loading at once, nothing else running."])


def _rate(workers: int) -> Callable[[Loading], float | None]:
    return lambda facts: facts.rates.get(workers)


def _mean(found: Sequence[Loading], value: Callable[[Loading], float | None], show: Callable[[float], str]) -> str:
    values = [number for facts in found if (number := value(facts)) is not None]
    return show(float(np.mean(values))) if values else UNKNOWN


def _remedy(found: Sequence[Loading]) -> str:
    """What most processes that wait would need."""
    waiting = [facts for facts in found if facts.stalled]
    if 2 * len(waiting) <= len(found):
        return "nothing to end"
    enough = [facts.workers for facts in waiting if facts.workers is not None]
    if 2 * len(enough) > len(waiting):
        return f"--num-workers {max(enough)}"
    tried = max(workers for facts in waiting for workers in facts.rates)
    return f"more than {tried} workers" if tried else "--loader-rates would tell"
