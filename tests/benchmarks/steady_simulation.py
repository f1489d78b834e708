"""Simulated runs against what is promised of warm-up, window, interval and flags of one run (docs/steady-state.md).

\b
    python -m tests.benchmarks.steady_simulation            # 2,000 series of each case, an hour of one core
    python -m tests.benchmarks.steady_simulation --show     # the tables of what was found

A promise is as good as its worst case. What was found of a case is on disk before the next one begins, and is not
computed again: a simulation that was stopped goes on. The seed of a series is that of its case and its number alone.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from scalebench.stats.within_run import LEAST_STEPS
from tests.benchmarks import tables
from tests.benchmarks.series import STATIONARY, Random, Scenario, bimodal, warm_up
from tests.benchmarks.simulated_runs import Outcome, outcome, simulate

WARM_UP = 16
LONGEST = 12_000
OPEN = {"warmup_steps": None, "steps": None, "target_precision": 0.02, "max_seconds": 80.0}
"""Steps take 10 ms: at most some 8,000."""
SPREADS = (0.01, 0.05)
SPREAD = 0.05
NEGLIGIBLE = 0.005
LONGEST_WARM_UP = 2000
CORRELATIONS = (0.0, 0.5, 0.8, 0.95)

PROMISES = {
    "fixed window: interval covers the true median": 0.93,
    "adaptive window: interval covers the true median": 0.90,
    "fixed window: nothing false is flagged": 0.95,
    "adaptive window: nothing false is flagged": 0.95,
    "5 memories or fewer: flagged as too short": 0.95,
    "drift of 20%: flagged": 0.95,
    "warm-up: what is left shifts the median by at most 0.5%": 0.95,
}
FIXED_COVERS, OPEN_COVERS, FIXED_CALM, OPEN_CALM, SHORT, DRIFT, WARM = PROMISES
SHOWN = "not promised"

Kept = Callable[[Outcome], bool]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Runs of one kind, and what of each is promised: the promise's name to whether it was kept."""

    name: str
    run: Callable[[Random], Outcome]
    promises: Mapping[str, Kept]


def cases() -> Iterator[Case]:
    """All of them; the last ones show what is not promised."""
    for scenario in STATIONARY:
        yield from fixed_cases(scenario)
        yield from open_cases(scenario)
    yield from short_cases()
    yield from drift_cases()
    yield from warm_up_cases()
    yield from beyond()


def covers(found: Outcome) -> bool:
    return found.covers


def flagged(kinds: frozenset[str], found: Outcome) -> bool:
    return bool(found.flags & kinds)


def calm(scenario: Scenario, found: Outcome) -> bool:
    return found.flags <= scenario.really | {"imprecise"}


def unshifted(found: Outcome) -> bool:
    return abs(found.shift) <= NEGLIGIBLE


def fixed(scenario: Scenario, steps: int, change: float, random: Random) -> Outcome:
    """A run of exactly that many timed steps, over which the median changes by `change` up or down."""
    row = scenario.draw(random, WARM_UP + steps + 2, SPREAD)
    rising = np.clip((np.arange(len(row)) - WARM_UP) / steps - 0.5, -0.5, 0.5)
    row += rising * change * random.choice([-1, 1])
    return outcome(simulate(row, warmup_steps=WARM_UP, steps=steps), row)


def adaptive(scenario: Scenario, spread: float, random: Random) -> Outcome:
    """A run that ends by its own rule."""
    row = scenario.draw(random, LONGEST, spread)
    return outcome(simulate(row, **OPEN), row)


def warmed(scenario: Scenario, spread: float, shape: str, longest: float, random: Random) -> Outcome:
    """The same, with a warm-up."""
    still = scenario.draw(random, LONGEST, spread)
    return outcome(simulate(still + warm_up(shape, longest, random, LONGEST), **OPEN), still)


def fixed_cases(scenario: Scenario) -> Iterator[Case]:
    for memories in (50, 200):
        yield Case(
            name=f"{scenario.name}, {memories} memories",
            run=partial(fixed, scenario, scenario.steps(memories), 0.0),
            promises={FIXED_COVERS: covers, FIXED_CALM: partial(calm, scenario)},
        )


def open_cases(scenario: Scenario) -> Iterator[Case]:
    for spread in SPREADS:
        yield Case(
            name=f"{scenario.name}, noise {spread:.0%}",
            run=partial(adaptive, scenario, spread),
            promises={OPEN_COVERS: covers, OPEN_CALM: partial(calm, scenario)},
        )


def short_cases() -> Iterator[Case]:
    too_short = partial(flagged, frozenset({"too short", "drift"}))
    for scenario in STATIONARY:
        for memories, promise in ((5, SHORT), (10, SHOWN)):
            if scenario.steps(memories) >= LEAST_STEPS:  # fewer are flagged whatever they are
                yield Case(
                    name=f"{scenario.name}, {memories} memories",
                    run=partial(fixed, scenario, scenario.steps(memories), 0.0),
                    promises={promise: too_short},
                )


def drift_cases() -> Iterator[Case]:
    drifts = partial(flagged, frozenset({"drift"}))
    for scenario in STATIONARY[: len(CORRELATIONS)]:
        for memories, change, promise in ((50, 0.2, DRIFT), (200, 0.2, DRIFT), (200, 0.05, SHOWN)):
            yield Case(
                name=f"{scenario.name}, {memories} memories, drift of {change:.0%}",
                run=partial(fixed, scenario, scenario.steps(memories), change),
                promises={promise: drifts},
            )


def warm_up_cases() -> Iterator[Case]:
    lengths = {"decay": LONGEST_WARM_UP, "ramp": LONGEST_WARM_UP, "faster at first": LONGEST_WARM_UP, "plateau": 64}
    for shape, longest in lengths.items():
        for scenario in (STATIONARY[0], STATIONARY[2]):
            for spread in SPREADS:
                yield Case(
                    name=f"{shape} of up to {longest} steps, {scenario.name}, noise {spread:.0%}",
                    run=partial(warmed, scenario, spread, shape, longest),
                    promises={WARM: unshifted},
                )


def beyond() -> Iterator[Case]:
    """What no rule can know: a plateau, or one of two speeds, that outlasts the run."""
    yield Case(
        name=f"plateau of up to {LONGEST_WARM_UP} steps: shifts the median by at most 0.5%",
        run=partial(warmed, STATIONARY[0], SPREAD, "plateau", LONGEST_WARM_UP),
        promises={SHOWN: unshifted},
    )
    seldom = Scenario(name="", memory=0.0, draw=partial(bimodal, 0.95))
    yield Case(
        name="two speeds in turns of 29 steps and more: the interval covers the true median",
        run=partial(adaptive, seldom, SPREAD),
        promises={SHOWN: covers},
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """In how many of its runs a case kept a promise, and how many steps half of the runs timed at most."""

    case: str
    promise: str
    kept: int
    series: int
    steps: int

    @property
    def share(self) -> float:
        return self.kept / self.series


def simulated(case: Case, series: int) -> list[Found]:
    """One result per promise."""
    seed = zlib.crc32(case.name.encode())
    found = [case.run(np.random.default_rng([seed, number])) for number in range(series)]
    steps = int(np.median([one.steps for one in found]))
    return [
        Found(case=case.name, promise=promise, kept=sum(map(kept, found)), series=series, steps=steps)
        for promise, kept in case.promises.items()
    ]


def read(path: Path) -> list[Found]:
    return [Found(**fields) for fields in json.loads(path.read_text())] if path.exists() else []


@click.command(help=__doc__)
@click.option("--series", default=2000, show_default=True, help="Of each case.")
@click.option("--only", default="", metavar="TEXT", help="Cases whose names contain it.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/steady"), show_default=True)
@click.option("--show", is_flag=True, help="Simulate nothing; print the tables of what is in --results.")
def main(series: int, only: str, results: Path, show: bool) -> None:
    path = results / "simulation.json"
    found = read(path)
    done = {(one.case, one.series) for one in found}
    for case in () if show else cases():
        if only in case.name and (case.name, series) not in done:
            click.echo(case.name, err=True)
            found += simulated(case, series)
            results.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps([vars(one) for one in found], indent=1) + "\n")
    print(worst_table(found), every_table(found), sep="\n\n")


def worst_table(found: list[Found]) -> str:
    """A row per promise."""
    rows = []
    for promise, least in PROMISES.items():
        group = [one for one in found if one.promise == promise]
        if group:
            worst = min(group, key=lambda one: one.share)
            verdict = "kept" if worst.share >= least else "not kept"
            rows.append([promise, f"{least:.0%}", f"{worst.share:.1%}", worst.case, str(len(group)), verdict])
    return tables.markdown(["promise", "at least", "worst case", "which is", "cases", "verdict"], rows)


def every_table(found: list[Found]) -> str:
    """A row per case and promise."""
    rows = [
        [one.promise, one.case, str(one.series), str(one.steps), f"{one.share:.1%} ± {error(one):.1%}"] for one in found
    ]
    return tables.markdown(["promise", "case", "series", "timed steps (median)", "share kept"], sorted(rows))


def error(one: Found) -> float:
    """Standard error of the share."""
    return math.sqrt(one.share * (1 - one.share) / one.series)


if __name__ == "__main__":
    main()
