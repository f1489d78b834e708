"""What a comparison says: the answer in one sentence, a row per figure, the same as data, and a plot of the ratios."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from scalebench.analysis.verdicts import Match, Verdict
from scalebench.analysis.verdicts.deciding import metric_title
from scalebench.analysis.verdicts.metrics import METRICS
from scalebench.spec import RunSpec

from .drawing import titled_canvas
from .style import BLUE, GREEN, GREY, VERMILION
from .table import Row, Table, table
from .text import UNKNOWN, change, figure, listing, milliseconds, plural, size

Name = Callable[[RunSpec], str]
"""What a cell is called."""

WRITTEN_OUT = 1e6
"""Counts below are told to the last one."""
SHOW: dict[str, Callable[[float], str]] = {
    "seconds": lambda value: f"{milliseconds(value)} ms",
    "bytes": size,
    "joules": lambda value: f"{figure(value)} J",
    "count": lambda value: f"{value:.0f}" if value < WRITTEN_OUT else figure(value),
    "per second": lambda value: f"{figure(value)}/s",
}
NAMED = 6
"""As many regressions as a sentence may name."""
COLORS = {"slower": VERMILION, "more": VERMILION, "same": BLUE, "faster": GREEN, "less": GREEN}
SHOWN = (-50.0, 100.0)
"""What the axis (%) spans at most, unless a ratio itself lies beyond: of a wider interval the rest leaves the plot."""


def headline(verdicts: Sequence[Verdict], name: Name) -> str:
    """The answer in one sentence: what got worse; else whether that much can be said of everything."""
    worse = [verdict for verdict in verdicts if verdict.worse]
    if worse:
        more = f"; and {len(worse) - NAMED} more" if len(worse) > NAMED else ""
        told = "; ".join(sentence(verdict, name) for verdict in worse[:NAMED])
        return f"{plural(len(worse), 'regression')}: {told}{more}."
    main = [verdict for verdict in verdicts if verdict.subject in ("step", "throughput", "cell")]
    doubtful = [verdict for verdict in main if verdict.open]
    if not doubtful:
        return f"No regression: {_counted(main)}."
    return f"No regression is shown, but not everything is known: {_counted(main)}."


def _counted(verdicts: Sequence[Verdict]) -> str:
    """`step time same in 3 cells and inconclusive in 1, throughput ...`."""
    found: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        found.setdefault(metric_title(verdict.subject), Counter())[verdict.outcome] += 1
    parts = [
        f"{title} {listing([outcome + ' in ' + plural(count, 'cell') for outcome, count in counts.items()])}"
        for title, counts in found.items()
    ]
    return "; ".join(parts) or "there is no figure that both sides have"


def sentence(verdict: Verdict, name: Name) -> str:
    """`ddp, 2 ranks, fp32: step time +7.1% [+5.0% – +9.3%], slower`."""
    told = f"{name(verdict.spec)}: {metric_title(verdict.subject)}" if verdict.compared else name(verdict.spec)
    if verdict.compared is None:
        what = "parity failed: " if verdict.subject == "parity" else "" if verdict.worse else f"{verdict.outcome}: "
        return f"{told}: {what}{verdict.reason}"
    return f"{told} {ratio_text(verdict)}, {verdict.outcome}"


def ratio_text(verdict: Verdict) -> str:
    """`+7.1% [+5.0% – +9.3%]`; two figures where they are known without doubt."""
    found = verdict.compared
    if found is None:
        return UNKNOWN
    if found.exact:
        show = SHOW[found.metric.unit]
        return "0" if found.base == found.new else f"{show(found.base)} -> {show(found.new)}"
    interval = (
        "" if verdict.low is None or verdict.high is None else f" [{change(verdict.low)} – {change(verdict.high)}]"
    )
    return f"{change(found.ratio)}{interval}"


def verdict_table(verdicts: Sequence[Verdict], name: Name) -> Table | None:
    """A row per figure, but for those that are counted and the same in every cell: a note names these."""
    quiet = _unchanged(verdicts)
    rows = [_row(verdict, name) for verdict in verdicts if verdict.subject not in quiet]
    notes = (
        [f"Exactly the same wherever both sides have it: {listing([metric_title(one) for one in quiet])}."]
        if quiet
        else []
    )
    notes += [f"{name(match.spec)}: {'; '.join(match.notes)}." for match in _matches(verdicts) if match.notes]
    return table("Comparison", rows, notes)


def _unchanged(verdicts: Sequence[Verdict]) -> list[str]:
    exact = {metric.name: [v for v in verdicts if v.subject == metric.name] for metric in METRICS}
    return [
        subject
        for subject, found in exact.items()
        if found and all(v.compared and v.compared.exact and v.outcome == "same" for v in found)
    ]


def _matches(verdicts: Sequence[Verdict]) -> list[Match]:
    return list({id(verdict.match): verdict.match for verdict in verdicts}.values())


def _row(verdict: Verdict, name: Name) -> Row:
    found = verdict.compared
    show = SHOW[found.metric.unit] if found else str
    outcome = f"**{verdict.outcome}**" if verdict.worse else verdict.outcome
    return {
        "cell": name(verdict.spec),
        "metric": metric_title(verdict.subject),
        "baseline": show(found.base) if found else UNKNOWN,
        "new": show(found.new) if found else UNKNOWN,
        "change": ratio_text(verdict) if found and not found.exact else change(found.ratio) if found else UNKNOWN,
        "verdict": outcome,
        "reason": verdict.reason or "–",
    }


def as_data(verdicts: Sequence[Verdict], name: Name) -> list[dict[str, Any]]:
    """A dictionary per row, for programs: ratios are new / baseline, unknown is None."""
    return [
        {
            "cell": name(verdict.spec),
            "cell_id": verdict.spec.cell_id,
            "metric": verdict.subject,
            "verdict": verdict.outcome,
            "regression": verdict.worse,
            "open": verdict.open,
            "reason": verdict.reason or None,
            **_figures(verdict),
        }
        for verdict in verdicts
    ]


def _figures(verdict: Verdict) -> dict[str, Any]:
    found = verdict.compared
    difference = found.difference if found else None
    return {
        "baseline": found.base if found else None,
        "new": found.new if found else None,
        "ratio": found.ratio if found else None,
        "low": verdict.low,
        "high": verdict.high,
        "exact": found.exact if found else None,
        "unit_of_replication": found.unit if found and difference else None,
        "units": difference.units if difference else None,
        "needed": verdict.needed,
    }


def forest(verdicts: Sequence[Verdict], name: Name, margin: float) -> Figure | None:
    """Every measured ratio with its interval, the margin shaded. None where nothing was measured."""
    shown = [v for v in verdicts if v.compared and v.low is not None and v.high is not None]
    if not shown:
        return None
    plot, (axis,) = titled_canvas(
        ["New over baseline, with the intervals that verdicts rest on"], 1, height=1.4 + 0.28 * len(shown)
    )
    axis.axvspan(100 * (1 / (1 + margin) - 1), 100 * margin, color="0.93", zorder=0)
    axis.axvline(0, color="0.5", linewidth=0.8)
    for place, verdict in enumerate(reversed(shown)):
        _draw(axis, place, verdict)
    low, high = axis.get_xlim()
    changes = [100 * (verdict.compared.ratio - 1) for verdict in shown if verdict.compared]
    axis.set_xlim(max(low, min(SHOWN[0], *changes)), min(high, max(SHOWN[1], *changes)))
    labels = [f"{name(v.spec)}: {metric_title(v.subject)}" for v in reversed(shown)]
    axis.set_yticks(range(len(shown)), labels, fontsize=7)
    axis.set_xlabel("change (%); shaded: the margin that counts as the same")
    return plot


def _draw(axis: Any, place: int, verdict: Verdict) -> None:
    assert verdict.compared is not None
    assert verdict.low is not None
    assert verdict.high is not None
    centre, low, high = (100 * (end - 1) for end in (verdict.compared.ratio, verdict.low, verdict.high))
    axis.errorbar(
        centre,
        place,
        xerr=[[centre - low], [high - centre]],
        color=COLORS.get(verdict.outcome, GREY),
        marker="o",
        markersize=4,
        capsize=2,
        linewidth=1.2,
    )
