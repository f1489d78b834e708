"""The answer: per number of ranks and precision the best strategy and its margin, or no measurable difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scalebench.analysis.cells import Cell, items_per_second, not_measured_because
from scalebench.analysis.instability import instabilities
from scalebench.analysis.scaling import against_single
from scalebench.analysis.unsteady import Instability
from scalebench.records.record import Record
from scalebench.stats.ranking import LEAST_PROCESSES, Ranking, rank

from .evidence import parity_failures
from .experiments import Experiment, experiments
from .own_best import own_best
from .text import change, figure, listing, percent, plural, times, with_interval

ADVISED_REPEATS = 5
WITHIN_RUN = {"too short", "imprecise"}
"""Instabilities that concern one run's own interval alone."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one experiment says: a line per number of ranks and precision, then cautions."""

    title: str
    lines: list[str]
    cautions: list[str]


def answer(records: Iterable[Record]) -> list[str]:
    """The answer as plain lines: a heading per experiment, its findings and cautions. Empty when there is no run."""
    ran = list(records)
    best = [experiment for experiment, _ in own_best(ran)]
    lines = [
        line
        for found in answers([*experiments(ran), *best])
        for line in (f"{found.title}:", *(f"  {text}" for text in found.lines + found.cautions))
    ]
    return lines + parity_failures(ran)


def answers(found: Sequence[Experiment]) -> list[Answer]:
    """One answer per experiment."""
    return [
        Answer(title=e.title, lines=[_finding(e, group) for group in e.groups()], cautions=_cautions(e)) for e in found
    ]


def group_ranking(experiment: Experiment, group: Sequence[Cell]) -> Ranking | None:
    """The ranking of a group's cells under their names; None when fewer than two can be ranked.

    A cell whose strategy failed its parity check is no choice, however fast. Only processes of one session were
    randomised against each other, so the session that measured the most cells often enough is ranked, the latest of
    several.
    """
    choices = [cell for cell in group if cell not in experiment.untrue]
    sessions = list(dict.fromkeys(session for cell in choices for session in cell.sessions))
    candidates = [_samples(experiment, choices, session) for session in sessions]
    samples = max(reversed(candidates), key=len, default={})
    return rank(samples) if len(samples) > 1 else None


def _samples(experiment: Experiment, group: Sequence[Cell], session: str) -> dict[str, list[float]]:
    values = {experiment.names[cell]: cell.values(items_per_second, session) for cell in group}
    return {name: figures for name, figures in values.items() if len(figures) >= LEAST_PROCESSES}


def _finding(experiment: Experiment, group: Sequence[Cell]) -> str:
    measured = [cell for cell in group if cell.throughput and cell not in experiment.untrue]
    ranking = group_ranking(experiment, measured)
    counts = "counts" if experiment.untrue.intersection(group) else "was measured"
    if not measured:
        text = f"nothing {counts}"
    elif ranking:
        text = _ranked(experiment, ranking, {experiment.names[cell]: cell for cell in measured})
    elif len(measured) == 1:
        text = f"only {experiment.names[measured[0]]} {counts}: {_figures(experiment, measured[0])}"
    else:
        text = _unranked(experiment, measured)
    ranks = plural(group[0].spec.world_size, experiment.unit)
    return f"{ranks}, {group[0].precision}: {text}{_left_out(experiment, group, ranking)}"


def _ranked(experiment: Experiment, ranking: Ranking, named: dict[str, Cell]) -> str:
    best, contenders = ranking.best, ranking.contenders
    nearest, margin = next(iter(ranking.margins.items()))
    interval = "95% interval wider than 10-fold"
    if margin.bounded and margin.low and margin.high:
        interval = f"95% interval {change(margin.low)} to {change(margin.high)}"
    if ranking.winner:
        text = f"{best} is fastest, {change(margin.value)} over {nearest} ({interval})"
    else:
        text = f"no measurable difference between {listing(contenders)}"
        text += f" ({best} by estimate {change(margin.value)} over {nearest}, {interval})"
        slower = [name for name in ranking.margins if name not in contenders]
        text += f"; slower: {listing(slower)}" if slower else ""
    return f"{text}; {best}: {_figures(experiment, named[best])}"


def _unranked(experiment: Experiment, measured: Sequence[Cell]) -> str:
    rates = {experiment.names[cell]: rate.value for cell in measured if (rate := cell.throughput)}
    fastest_first = sorted(rates, key=lambda name: (-rates[name], name))
    figures = ", ".join(f"{name} {figure(rates[name])}" for name in fastest_first)
    if all(len(cell.measured) >= LEAST_PROCESSES for cell in measured):
        why = "no ranking, because no session measured two of them side by side (name them in one command)"
    elif any(len(cell.measured) >= LEAST_PROCESSES for cell in measured):
        why = f"no ranking, because repeats are missing (--repeats {ADVISED_REPEATS})"
    else:
        why = f"one process each says within-run only, and a ranking needs --repeats {ADVISED_REPEATS}"
    return f"{why}; {measured[0].item}/s: {figures}"


def _figures(experiment: Experiment, cell: Cell) -> str:
    """`1,234 tokens/s [..], 1.83× single on 1 GPU (weak efficiency 91.3%)`."""
    text = f"{with_interval(cell.throughput)} {cell.item}/s"
    if len(cell.measured) == 1:
        text += f" (one process: within-run only, --repeats {ADVISED_REPEATS} gives an interval)"
    scaling = against_single(cell, experiment.cells)
    speedup, efficiency = scaling.speedup.estimate, scaling.efficiency.estimate
    if speedup and efficiency and cell.spec.world_size > 1:
        text += f", {times(speedup.value)} single on 1 {experiment.unit}"
        text += f" ({cell.spec.scaling} efficiency {percent(efficiency.value)})"
    return text


def _left_out(experiment: Experiment, group: Sequence[Cell], ranking: Ranking | None) -> str:
    """The cells of a group that a reader could miss in the finding, with the reason in a few words."""
    reasons: dict[str, list[str]] = {}
    for cell in group:
        name = experiment.names[cell]
        if cell in experiment.untrue:
            reasons.setdefault("failed its parity check, so it is not ranked", []).append(name)
        elif not cell.measured:
            reasons.setdefault(why_not_measured(cell), []).append(name)
        elif ranking and name not in (ranking.best, *ranking.margins):
            reasons.setdefault("too few processes in the session ranked", []).append(name)
    return "".join(f"; {listing(names)}: {reason}" for reason, names in reasons.items())


def why_not_measured(cell: Cell) -> str:
    """In a few words, why a cell has no figure: the outcome of its last run, or why that run does not count."""
    last = cell.records[-1]
    reason = not_measured_because(last) if last.status == "ok" else None
    if reason is None:
        return last.status
    return reason.partition(":" if last.comparable else ";")[0]  # what makes it not comparable can be undone: say it


def _cautions(experiment: Experiment) -> list[str]:
    """A line per kind of instability: in how many runs, the worst of them, and what to do; said once of each cell.

    That one run's own interval cannot be trusted is no caution where the interval is one over several runs.
    """
    if not experiment.matched:
        return []
    runs = [(cell, record) for cell in experiment.cells for record in cell.records if record.status == "ok"]
    found: dict[str, list[tuple[Instability, Cell]]] = {}
    for cell, record in runs:
        for one in instabilities(record):
            if one.kind not in WITHIN_RUN or len(cell.measured) < LEAST_PROCESSES:
                found.setdefault(one.kind, []).append((one, cell))
    return [_caution(experiment, instances, len(runs)) for instances in found.values()]


def _caution(experiment: Experiment, instances: Sequence[tuple[Instability, Cell]], runs: int) -> str:
    worst, cell = max(instances, key=lambda instance: instance[0].size)
    where = f"{experiment.names[cell]} on {plural(cell.spec.world_size, experiment.unit)}, {cell.precision}"
    often = f"in {len(instances)} of {plural(runs, 'run')}" + (", at worst" if len(instances) > 1 else "")
    return f"caution: {worst.kind} {often} ({where}): {worst.seen}. To do: {worst.advice}"
