"""What pairs say: ratios as geometric means with one-sided 95% bounds, beside the targets, as markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from scalebench.stats.intervals import Estimate, geometric_mean
from tests.benchmarks.pairs import Cell, Pair, Sample

ONE_SIDED_95 = 0.90
"""Confidence of the two-sided interval each end of which is a one-sided 95% bound."""
COST_TARGET = {1: 1.04, 2: 1.06}
START_TARGET, START_TARGET_DEEPSPEED = 0.15, 0.3
BUSY_CORES = 0.7
"""With more cores than these taken by others, medians of fresh runs moved by a third."""


def mean_ratio(ratios: Sequence[float]) -> Estimate:
    """Geometric mean of one ratio per pair; `low` and `high` are one-sided 95% bounds (Student's t on logarithms)."""
    return geometric_mean(ratios, ONE_SIDED_95)


def verdict(estimate: Estimate, target: float) -> str:
    """`met` when the upper bound keeps the target, `missed` when the lower one breaks it, else `not resolved`."""
    if estimate.low is None or estimate.high is None:
        return "not resolved"
    if estimate.high <= target:
        return "met"
    return "missed" if estimate.low > target else "not resolved"


def cost_target(cell: Cell) -> float:
    return COST_TARGET[min(cell.ranks, max(COST_TARGET))]


def start_target(cell: Cell) -> float:
    return START_TARGET_DEEPSPEED if cell.deepspeed else START_TARGET


def cost_table(pairs: Sequence[Pair]) -> str:
    """Step time of scalebench over the bare script's, in fresh processes."""
    return _table("step", "ms", pairs, lambda sample: sample.step_seconds * 1e3, cost_target)


def startup_table(pairs: Sequence[Pair]) -> str:
    """Launch to the end of the first step, scalebench's over a fresh torchrun's."""
    return _table("start", "s", pairs, lambda sample: sample.start_seconds, start_target)


def stages_table(pairs: Sequence[Pair]) -> str:
    """Where scalebench's start-up goes on rank 0, and what follows the last step: medians in milliseconds."""
    stages = list(dict.fromkeys(name for pair in pairs for name in pair.stages))
    header = ["strategy", "ranks", *stages, "after the last step"]
    rows = []
    for cell, group in by_cell(pairs):
        times = [[pair.stages[name] for pair in group] for name in stages]
        times.append([pair.scalebench.end_seconds for pair in group])
        rows.append([cell.strategy, str(cell.ranks), *(f"{median(values) * 1e3:.0f}" for values in times)])
    return markdown(header, rows)


def quietness(pairs: Sequence[Pair]) -> str:
    """A line about the machine: what others took of it while scalebench's windows were measured."""
    known = [pair.foreign_cores for pair in pairs if pair.foreign_cores is not None]
    if not known:
        return "Load of others in the windows: n/a."
    caution = "" if median(known) <= BUSY_CORES else " Too busy for any verdict."
    return f"Load of others in the windows: median {median(known):.2f}, most {max(known):.2f} cores.{caution}"


def by_cell(pairs: Sequence[Pair]) -> Iterable[tuple[Cell, list[Pair]]]:
    cells = sorted({pair.cell for pair in pairs}, key=lambda cell: (cell.ranks, cell.deepspeed, cell.strategy))
    return [(cell, [pair for pair in pairs if pair.cell == cell]) for cell in cells]


def _table(
    what: str, unit: str, pairs: Sequence[Pair], value: Callable[[Sample], float], target: Callable[[Cell], float]
) -> str:
    rows = []
    for cell, group in by_cell(pairs):
        theirs = [value(pair.torchrun) for pair in group]
        ours = [value(pair.scalebench) for pair in group]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        rows.append(ratio_row(cell, median(theirs), median(ours), ratios, target(cell)))
    return markdown(ratio_header(f"{what}, bare ({unit})", f"{what}, scalebench ({unit})", "pairs"), rows)


def ratio_header(theirs: str, ours: str, replicates: str) -> list[str]:
    return ["strategy", "ranks", replicates, theirs, ours, "ratio", "95% upper bound", "target", "verdict"]


def ratio_row(cell: Cell, theirs: float, ours: float, ratios: Sequence[float], target: float) -> list[str]:
    """One line of a table of `ratio_header`; `theirs` and `ours` are typical values, to give an idea of the size."""
    estimate = mean_ratio(ratios)
    upper = "n/a" if estimate.high is None else f"{estimate.high:.3f}"
    counted = [cell.strategy, str(cell.ranks), str(len(ratios)), f"{theirs:.3g}", f"{ours:.3g}"]
    return [*counted, f"{estimate.value:.3f}", upper, f"{target:g}", verdict(estimate, target)]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
