"""What the field's guides claim, beside what was measured here.

The claims are about GPUs. What CPU processes gave is shown beside them and never counts as a verdict on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scalebench.analysis.cells import Cell, Comparison
from scalebench.analysis.precision import precision_gain
from scalebench.analysis.scaling import against_single
from scalebench.stats.intervals import Estimate

from .experiments import Experiment, hardware
from .table import Table, table
from .text import UNKNOWN, plural, times, with_interval

Measure = Callable[[Cell, Sequence[Cell]], Comparison | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A claim: that `measure` of the cells it is about lies between `low` and `high`."""

    claim: str
    low: float
    high: float
    measure: Measure


def _ddp_speedup(ranks: int) -> Measure:
    def measure(cell: Cell, cells: Sequence[Cell]) -> Comparison | None:
        about = cell.spec.strategy == "ddp" and cell.spec.world_size == ranks
        return against_single(cell, cells).speedup if about else None

    return measure


def _sixteen_bit(cell: Cell, cells: Sequence[Cell], attribute: str) -> Comparison | None:
    gain = precision_gain(cell, cells) if cell.precision in ("fp16", "bf16") else None
    return getattr(gain, attribute) if gain else None


RULES = (
    *(
        Rule(claim=f"DDP on {ranks} GPUs is {low}–{high}× one GPU", low=low, high=high, measure=_ddp_speedup(ranks))
        for ranks, low, high in ((2, 1.7, 1.9), (4, 3.2, 3.6), (8, 6.0, 7.0))
    ),
    Rule(
        claim="16-bit halves the memory (0.45–0.55×)",
        low=0.45,
        high=0.55,
        measure=lambda cell, cells: _sixteen_bit(cell, cells, "memory_ratio"),
    ),
    Rule(
        claim="16-bit gives 1.5× the speed (1.35–1.65×)",
        low=1.35,
        high=1.65,
        measure=lambda cell, cells: _sixteen_bit(cell, cells, "speedup"),
    ),
)
"""The claims of the guides; the round ones of 16-bit are given a tenth either way."""


def rules_of_thumb(experiments: Sequence[Experiment]) -> Table | None:
    """One row per claim, experiment and precision that bears on it; `not measured` where nothing does."""
    rows = []
    for rule in RULES:
        found = [
            _row(rule, experiment, evidence)
            for experiment in experiments
            for evidence in _evidence(rule, experiment).values()
        ]
        rows += found or [{"claim": rule.claim, "measured": UNKNOWN, "where": UNKNOWN, "verdict": "not measured"}]
    note = "agrees: the whole interval lies inside the claim; disagrees: the whole lies outside; else inconclusive."
    return table("Rules of thumb", rows, [note])


def _evidence(rule: Rule, experiment: Experiment) -> dict[str, list[tuple[Cell, Estimate]]]:
    """The cells that bear on `rule`, with what they measured, by precision."""
    found: dict[str, list[tuple[Cell, Estimate]]] = {}
    for cell in experiment.measured:
        comparison = None if cell in experiment.untrue else rule.measure(cell, experiment.cells)
        if comparison and comparison.estimate:
            found.setdefault(cell.precision, []).append((cell, comparison.estimate))
    return found


def verdict(rule: Rule, estimate: Estimate) -> str:
    """`agrees`, `disagrees (above|below)` or `inconclusive`, by where the interval lies."""
    if estimate.low is None or estimate.high is None:
        return "inconclusive (one process)"
    if rule.low <= estimate.low and estimate.high <= rule.high:
        return "agrees"
    if estimate.low > rule.high:
        return "disagrees (above)"
    return "disagrees (below)" if estimate.high < rule.low else "inconclusive"


def _row(rule: Rule, experiment: Experiment, evidence: Sequence[tuple[Cell, Estimate]]) -> dict[str, str]:
    cell, estimate = evidence[0]
    values = [estimate.value for _, estimate in evidence]
    counts = Counter(verdict(rule, estimate) for _, estimate in evidence)
    if len(evidence) == 1:
        measured, found = with_interval(estimate, times), verdict(rule, estimate)
        subject = f"{experiment.names[cell]} on {plural(cell.spec.world_size, experiment.unit)}"
    else:
        measured = f"{times(min(values))} to {times(max(values))}"
        found = ", ".join(f"{word} in {count} of {len(evidence)}" for word, count in counts.most_common())
        subject = f"{len(evidence)} cells"
    return {
        "claim": rule.claim,
        "measured": measured,
        "where": f"{subject}, {cell.precision}, {experiment.title}; {hardware(cell)}",
        "verdict": found if experiment.unit == "GPU" else f"not measured on a GPU (on CPU: {found})",
    }
