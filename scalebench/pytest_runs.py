"""What the fixture `scalebench` does: measure one cell in fresh processes, hand its steps on, hold it to its limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from scalebench.analysis.cells import Cell, cells
from scalebench.analysis.memory import peak
from scalebench.analysis.scaling import against_single
from scalebench.analysis.steps import window
from scalebench.analysis.verdicts import Rule, Verdict, decide, match
from scalebench.analysis.verdicts.deciding import LEVEL
from scalebench.analysis.verdicts.matching import spec_key
from scalebench.analysis.verdicts.metrics import NAMES
from scalebench.cli.asking import Asked
from scalebench.cli.compare import SPEEDS, namer
from scalebench.cli.live import LOOKS, Measuring, Question, read_checkout
from scalebench.cli.run import cells_of
from scalebench.errors import UserError, unknown_name
from scalebench.harness.runner import Session, check_data, session_name
from scalebench.harness.turns import Place
from scalebench.machine import detect
from scalebench.matrix import DEFAULT_REPEATS
from scalebench.matrix.request import read_share
from scalebench.records.record import Record
from scalebench.records.revision import load_side
from scalebench.reporting.verdicts import Name, headline
from scalebench.spec import PlannedRun, RunSpec
from scalebench.stats.intervals import Estimate

SESSION = session_name()
"""One for all tests of a pytest run: they are one sitting."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The runs of one cell, and of its baseline on one rank where that was asked for.

    Attributes:
        verdicts: against the baseline, when there is one.
    """

    cell: Cell
    others: Sequence[Cell] = ()
    verdicts: Sequence[Verdict] = field(default=())

    @property
    def records(self) -> tuple[Record, ...]:
        """One per fresh process."""
        return self.cell.records

    @cached_property
    def step_seconds(self) -> list[float]:
        """Every timed step of every process. Where ranks share no clock, the mean of each process, once per step."""
        found = (window(record) for record in self.cell.measured)
        return [seconds for one in found if one for seconds in _steps(one)]

    @property
    def throughput(self) -> Estimate | None:
        """Items per second over all ranks, with its interval over processes."""
        return self.cell.throughput

    @property
    def peak_memory_bytes(self) -> int | None:
        """Of the fullest rank of all processes."""
        return max((found for record in self.cell.measured if (found := peak(record))), default=None)

    @property
    def efficiency(self) -> float | None:
        """Scaling efficiency against `single` on one rank; None unless that was measured too (`baseline=True`)."""
        estimate = against_single(self.cell, [self.cell, *self.others]).efficiency.estimate
        return estimate.value if estimate else None

    def facts(self) -> dict[str, Any]:
        """For pytest-benchmark's extra_info."""
        rate = self.throughput
        return {
            "cell_id": self.cell.spec.cell_id,
            "processes": len(self.cell.measured),
            "ranks": self.cell.spec.world_size,
            "median_step_seconds": median(self.step_seconds),
            f"{self.cell.item}_per_second": rate.value if rate else None,
            f"{self.cell.item}_per_second_95": [rate.low, rate.high] if rate else None,
            "peak_memory_bytes": self.peak_memory_bytes,
            "efficiency": self.efficiency,
        }


def _steps(found: Any) -> list[float]:
    if found.step_seconds is None:
        return [found.wall_seconds / found.steps] * found.steps
    return [float(seconds) for seconds in found.step_seconds]


@dataclass(kw_only=True)
class Measurer:
    """The fixture's value; see scalebench.pytest_plugin.

    Attributes:
        limits: of the test's mark. tests: how many share the promise of few false alarms. repeats_made: per cell, in
            this pytest run.
    """

    config: pytest.Config
    benchmark: Any
    durations: deque[float]
    limits: Mapping[str, str]
    tests: int
    repeats_made: dict[str, int]

    def __call__(self, *, repeats: int = DEFAULT_REPEATS, baseline: bool = False, **asked: Any) -> Measured:
        """Measure the one cell that `asked` describes, with the keys of a configuration file, `repeats` times.

        With `baseline`, plain PyTorch on one rank too, for the efficiency. Fails the test when a run does not end ok,
        and when it is worse than the baseline of the command line.
        """
        __tracebackhide__ = True
        try:
            return self._measure(repeats, baseline, asked)
        except UserError as error:
            pytest.fail(str(error), pytrace=False)

    def _measure(self, repeats: int, baseline: bool, asked: Mapping[str, Any]) -> Measured:
        __tracebackhide__ = True
        rule, specs = self._rule(), specs_of(asked, baseline)
        against = self.config.getoption("--scalebench-against") if self.benchmark.enabled else None
        name = namer(specs)
        measured = self._in_turn(asked, specs[-1], against, rule) if against else self._alone(specs, repeats, name)
        if not measured.step_seconds:
            pytest.fail(f"{name(specs[-1])}: no speed was measured, though it ended ok", pytrace=False)
        self._replay(measured)
        measured = measured if against else self._held(measured, rule)
        self._judge(measured.verdicts, name)
        return measured

    def _alone(self, specs: Sequence[RunSpec], repeats: int, name: Name) -> Measured:
        """Fresh processes, in blocks of one per spec."""
        __tracebackhide__ = True
        runs = [self._next_run(spec) for _ in range(repeats if self.benchmark.enabled else 1) for spec in specs]
        session = Session(self._results, runs, detect(runs[0].spec.device), name=SESSION)
        session.prepare()
        check_data(runs)
        records = [session.perform(order, run, lambda phase: None)[0] for order, run in enumerate(runs)]
        bad = next((record for record in records if record.status != "ok"), None)
        if bad:
            pytest.fail(f"{name(bad.spec)}: {bad.status}: {bad.reason}", pytrace=False)
        found = cells(records)
        cell = next(one for one in found if one.spec == specs[-1])
        return Measured(cell=cell, others=[one for one in found if one is not cell])

    def _in_turn(self, asked: Mapping[str, Any], spec: RunSpec, checkout: str, rule: Rule) -> Measured:
        """This source tree and another, in pairs, until it is known which is slower or that neither is."""
        __tracebackhide__ = True
        places = Place(checkout=read_checkout(checkout)), Place(checkout=Path.cwd())
        base = places[0].call(specs_of, asked, False)[-1]
        question = Question(cells=[(base, spec)], places=places, parity=False)
        made = self._next_run(spec).repeat
        folder = self._results / f"against-{SESSION}" / f"{spec.cell_id}-{made}"
        (match,), rule = Measuring(question, folder, rule, LOOKS).carry_out()
        verdicts = decide([match], rule)
        if match.new is None or not match.new.measured:
            pytest.fail(headline(verdicts, namer([spec])), pytrace=False)
        return Measured(cell=match.new, verdicts=verdicts)

    @property
    def _results(self) -> Path:
        return Path(self.config.getoption("--scalebench-results"))

    def _next_run(self, spec: RunSpec) -> PlannedRun:
        repeat = self.repeats_made.get(spec.cell_id, 0)
        self.repeats_made[spec.cell_id] = repeat + 1
        return PlannedRun(spec=spec, repeat=repeat)

    def _replay(self, measured: Measured) -> None:
        """Feed pytest-benchmark every step as a round of its own."""
        self.durations.extend(measured.step_seconds)
        self.benchmark.extra_info.update(measured.facts())
        self.benchmark.pedantic(lambda: None, rounds=len(measured.step_seconds))

    def _held(self, measured: Measured, rule: Rule) -> Measured:
        """`measured` with its verdicts against the records of the command line; fails the test where there are none."""
        __tracebackhide__ = True
        given = self.config.getoption("--scalebench-baseline")
        if given is None or not self.benchmark.enabled:
            return measured
        spec, name = measured.cell.spec, namer([measured.cell.spec])
        base = [r for r in load_side(given).records if spec_key(r.spec) == spec_key(spec) and r.session != SESSION]
        if not base:
            pytest.fail(f"{name(spec)} is not in the baseline '{given}': nothing to hold it against. "
                        "Run the test without --scalebench-baseline, and keep its records.", pytrace=False)  # fmt: skip
        verdicts = decide(match(base, measured.cell.records), rule)
        return Measured(cell=measured.cell, others=measured.others, verdicts=verdicts)

    def _judge(self, verdicts: Sequence[Verdict], name: Name) -> None:
        """Fail the test for a regression, or where the data cannot show the effects that its mark names."""
        __tracebackhide__ = True
        if any(verdict.worse for verdict in verdicts):
            pytest.fail(headline(verdicts, name), pytrace=False)
        named = {"step" if limit == "slower" else limit.replace("_", "-") for limit in self.limits} | {"cell"}
        doubtful = [verdict for verdict in verdicts if verdict.open and verdict.subject in named]
        if doubtful and self.limits and self.config.getoption("--scalebench-inconclusive") == "fail":
            told = "; ".join(f"{verdict.subject} {verdict.outcome}: {verdict.reason}" for verdict in doubtful)
            pytest.fail(f"{name(doubtful[0].spec)}: {told}", pytrace=False)

    def _rule(self) -> Rule:
        """Of the test's mark; all tests together raise a false alarm in 1% of pytest runs at most."""
        return Rule(effects=effects_of(self.limits), level=LEVEL / max(1, self.tests))


def effects_of(limits: Mapping[str, str]) -> dict[str, float]:
    """`slower="5%", memory="2%"` as metric to share. Raises UserError."""
    found: dict[str, float] = {}
    for name, value in limits.items():
        metrics = SPEEDS if name == "slower" else (name.replace("_", "-"),)
        if metrics[0] not in NAMES:
            raise UserError(f"@pytest.mark.scalebench: {unknown_name('metric', name, ('slower', *NAMES))}")
        try:
            found |= dict.fromkeys(metrics, read_share(value))
        except ValueError as error:
            raise UserError(f'@pytest.mark.scalebench({name}="{value}"): {error}.') from None
    return found


def specs_of(asked: Mapping[str, Any], baseline: bool) -> list[RunSpec]:
    """The one cell that is asked for, `single` on one rank before it for its efficiency. Raises UserError."""
    question = Asked(flags={**asked, "baseline": baseline}, table={})
    request = question.request()
    specs = cells_of(question, request, detect(request.device or "auto"))
    ours = [spec for spec in specs if not (baseline and spec.strategy == "single")] or specs
    if len(ours) != 1:
        raise UserError(f"a test measures one cell, and {len(ours)} were asked for: give one value each.")
    return [spec for spec in specs if spec is not ours[0]] + ours
