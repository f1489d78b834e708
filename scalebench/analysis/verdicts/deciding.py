"""Verdicts: of every metric of every cell, with one promise for all of them together.

A measured figure is `same` when its 90% interval lies inside the margin (two one-sided tests, Schuirmann, Journal of
Pharmacokinetics and Biopharmaceutics 15, 1987). Otherwise it is worse or better when it is shown to be, by one-sided
tests that together raise a false alarm in 1% of commands at most (Holm). Otherwise nothing can be said, but how much
more it would take. What is counted is compared as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from scalebench.analysis.parity import failed_parity_of
from scalebench.spec import RunSpec
from scalebench.stats.differences import Difference
from scalebench.stats.multiple import holm_levels

from .differences import Compared, compared
from .matching import Match
from .metrics import METRICS, NAMES

MARGIN = 0.03
LEVEL = 0.01
"""Chance of any false alarm in one command."""
SAME_LEVEL = 0.05
"""Of each end of the interval that must lie inside the margin."""
POWER = 0.95
LEAST_DEVIATION = 0.01
"""Of a pair, before anything smaller is believed: the quietest sessions seen had 1.7% (docs/compare.md)."""

Outcome = Literal[
    "same", "not slower", "slower", "faster", "more", "less", "not more", "inconclusive",
    "passed", "failed", "not comparable", "missing", "added",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How verdicts are reached.

    Attributes:
        margin: a change that matters to nobody.
        effects: metric to the worsening that must be detected with 95% power, or of a figure that is compared as it is
            the one allowed.
        level, same_level: chances of being wrong, as above; smaller for each of several looks at growing data.
        least_deviation: of a pair: the machine's own floor, below which no spread is believed.
    """

    margin: float = MARGIN
    effects: Mapping[str, float] = field(default_factory=dict)
    level: float = LEVEL
    same_level: float = SAME_LEVEL
    least_deviation: float = LEAST_DEVIATION

    def margin_of(self, metric: str) -> float:
        """No wider than the effect that is asked for."""
        return min(self.margin, self.effects.get(metric, self.margin))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of one metric of one cell, or of the cell itself (`subject` is then `cell` or `parity`).

    Attributes:
        outcome: what was found; `worse`: a regression; `open`: nothing that can be called sound was found.
        compared: the figures; None where there are none to compare.
        low, high: the interval of the ratio whose ends are each wrong with the chance `same_level`.
        needed: how many pairs or sessions it would take; None where that is not the question or beyond all measure.
        reason: why this outcome, in words.
    """

    match: Match
    subject: str
    outcome: Outcome
    worse: bool = False
    open: bool = False
    compared: Compared | None = None
    low: float | None = None
    high: float | None = None
    needed: int | None = None
    reason: str = ""

    @property
    def spec(self) -> RunSpec:
        return self.match.spec


def decide(matches: Sequence[Match], rule: Rule | None = None) -> list[Verdict]:
    """The verdicts of all cells, in their order. Their promise holds for all of them together, so ask once."""
    rule = rule or Rule()
    figures = [(match, list(_figures(match, rule))) for match in matches]
    levels = _levels([one for _, found in figures for one in found if one.difference], rule)
    verdicts: list[Verdict] = []
    for match, found in figures:
        verdicts += _of_cell(match)
        verdicts += [_of_figure(match, one, levels.get(id(one)), rule) for one in found]
    return verdicts


def _figures(match: Match, rule: Rule) -> Sequence[Compared]:
    if match.refused or match.base is None or match.new is None:
        return []
    found = (compared(match.base, match.new, metric, rule.least_deviation) for metric in METRICS)
    return [one for one in found if one is not None]


@dataclass(frozen=True, kw_only=True)
class _Levels:
    """At which a figure is tested for worse and for better, and the least at which it would be: its share of all."""

    worse: float
    better: float
    least: float


def _levels(tests: Sequence[Compared], rule: Rule) -> dict[int, _Levels]:
    """By the identity of what is tested."""
    weights = [test.metric.weight for test in tests]
    worsenings = [found for test in tests if (found := test.worsening)]
    worse = holm_levels([found.p_above for found in worsenings], rule.level, weights)
    better = holm_levels([found.p_below for found in worsenings], rule.level, weights)
    least = [rule.level * weight / sum(weights) for weight in weights]
    return {
        id(test): _Levels(worse=up, better=down, least=share)
        for test, up, down, share in zip(tests, worse, better, least, strict=True)
    }


def _of_cell(match: Match) -> list[Verdict]:
    found = [v for v in (_presence(match), _parity(match)) if v]
    if match.broken or match.refused:
        found.append(
            Verdict(
                match=match,
                subject="cell",
                outcome="not comparable",
                worse=match.broken is not None,
                open=match.broken is None,
                reason=match.broken or match.refused or "",
            )
        )
    return found


def _presence(match: Match) -> Verdict | None:
    if match.base and match.new:
        return None
    if match.base or (match.checks[0] and not match.checks[1]):
        told = "the new side has no run of it"
        return Verdict(match=match, subject="cell", outcome="missing", open=True, reason=told)
    if match.new or not match.checks[0]:
        told = "the baseline has no run of it"
        return Verdict(match=match, subject="cell", outcome="added", open=True, reason=told)
    return None


def _parity(match: Match) -> Verdict | None:
    """Whether the new side still trains the same model; None where it was not checked."""
    before, after = (failed_parity_of(checks) for checks in match.checks)
    if after is None:
        return None
    if not after:
        return Verdict(match=match, subject="parity", outcome="passed")
    told = "it no longer trains the same model as single" if before is False else "it does not train the same model"
    return Verdict(match=match, subject="parity", outcome="failed", worse=not before, open=bool(before), reason=told)


def _of_figure(match: Match, found: Compared, levels: _Levels | None, rule: Rule) -> Verdict:
    if found.exact:
        return _exact(match, found, rule)
    worsening = found.worsening
    if worsening is None or levels is None:
        return Verdict(
            match=match,
            subject=found.metric.name,
            outcome="inconclusive",
            open=True,
            compared=found,
            reason=found.unknown_because or "",
        )
    return _tested(match, found, worsening, levels, rule)


def _exact(match: Match, found: Compared, rule: Rule) -> Verdict:
    allowed = rule.effects.get(found.metric.name, 0.0)
    worse, better = found.metric.words
    change = found.new / found.base - 1
    outcome: Outcome = "same" if change == 0 else worse if change > 0 else better  # type: ignore[assignment]
    reason = f"within the {allowed:.3g} allowed" if 0 < change <= allowed else ""
    return Verdict(
        match=match,
        subject=found.metric.name,
        outcome=outcome,
        worse=change > allowed,
        compared=found,
        reason=reason,
    )


def _tested(match: Match, found: Compared, worsening: Difference, levels: _Levels, rule: Rule) -> Verdict:
    name, (worse, better) = found.metric.name, found.metric.words
    margin, effect = rule.margin_of(name), rule.effects.get(name)
    low, high = worsening.interval(rule.same_level)
    outcome, reason, needed = "inconclusive", "", None
    if 1 / (1 + margin) <= low and high <= 1 + margin:
        outcome = "same"
    elif worsening.p_above <= levels.worse:
        outcome = worse
    elif worsening.p_below <= levels.better:
        outcome = better
    elif effect is not None and worsening.power(effect, levels.least) >= POWER:
        outcome, reason = f"not {worse}", f"{effect:.1%} {worse} would have been seen with {POWER:.0%} power"
    else:
        needed = worsening.units_for(effect or margin, levels.least, POWER)
        reason = _what_it_takes(found.unit, needed, worsening, effect or margin, worse)
    shown = found.difference.interval(rule.same_level) if found.difference else (None, None)
    return Verdict(
        match=match,
        subject=name,
        outcome=outcome,  # type: ignore[arg-type]
        worse=outcome == worse,
        open=outcome == "inconclusive",
        compared=found,
        low=shown[0],
        high=shown[1],
        needed=needed,
        reason=reason,
    )


def _what_it_takes(unit: str, needed: int | None, seen: Difference, effect: float, worse: str) -> str:
    """In words; the number is that with which such an effect would be seen in 95 of 100 cases."""
    if needed is None:
        return f"so unsteady that no number of {unit}s would do"
    if needed <= seen.units:
        return f"{effect:.1%} {worse} would be seen with these {unit}s; a smaller change may be there"
    each = " of each side; --live takes fewer" if unit == "session" else ""
    return f"to see {effect:.1%} {worse} takes about {needed} {unit}s{each}"


def metric_title(name: str) -> str:
    """The title of the metric `name`; other subjects are their own."""
    return METRICS[NAMES.index(name)].title if name in NAMES else name
