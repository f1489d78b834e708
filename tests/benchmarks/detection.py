"""What `compare --live` detects, and how much it takes, beside what other gates do with the same runs.

    python -m tests.benchmarks.detection --results DIR --session 1      # then 2, 3: on different occasions
    python -m tests.benchmarks.detection --results DIR --show --plot detection.png

A session is 40 pairs in which the new side's steps are really made longer: by 5% on one rank and by 10% on two.
Shown is how often that is flagged in 40 pairs drawn from all sessions in blocks of 10 successive ones; and the smallest
change that is flagged in 95% of so many pairs, put by multiplication into the real pairs of the same that
`aa_verdicts` left in DIR, beside the false alarms without any: of pytest-benchmark's own gate (median:5% on all
steps), of Mann-Whitney's test on all steps and of Welch's t-test on the means of processes, both at 1%.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from scipy import stats

from scalebench.analysis.steps import window
from scalebench.analysis.verdicts.deciding import LEAST_DEVIATION
from scalebench.analysis.verdicts.metrics import PRIMARY
from scalebench.stats.differences import of_pairs
from tests.benchmarks import tables
from tests.benchmarks.in_turn import Pair, drawn, live_verdicts, measure, sessions_in, spec

DELAYS = {1: 0.05, 2: 0.10}
LONGER = {ranks: (spec(ranks), spec(ranks, delay)) for ranks, delay in DELAYS.items()}
PAIRS = (5, 10, 20, 40)
CHANGES = np.concatenate([[0.0], np.arange(0.005, 0.15, 0.005), np.arange(0.15, 0.51, 0.05)])
LEVEL, POWER = 0.01, 0.95
SHARE = PRIMARY / (PRIMARY + 3)
"""Of the level, of the step time in a cell without diagnostics: median, tail and resident memory are tested too."""

Steps = Sequence[npt.NDArray[np.float64]]
"""The step times of each process of a side."""
Gate = Callable[[Steps, Steps], bool]


@click.command(help=__doc__)
@click.option("--results", type=click.Path(path_type=Path), required=True)
@click.option("--session", type=int, default=1, show_default=True)
@click.option("--pairs", default=40, show_default=True)
@click.option("--draws", default=500, show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the smallest changes against pairs.")
def main(results: Path, session: int, pairs: int, draws: int, show: bool, plot: Path | None) -> None:
    if not show:
        measure(list(LONGER.values()), pairs, results / "longer" / str(session), False, print)
        return
    heads = ["ranks", "steps longer by", "pairs", "sessions", "flagged as slower within 40 pairs", "pairs it took"]
    print(tables.markdown(heads, [row for ranks in DELAYS if (row := flagged_row(results, ranks, draws))]))
    found = {ranks: smallest(sessions_in(results / "quiet", (spec(ranks), spec(ranks))), draws) for ranks in DELAYS}
    print()
    print(tables.markdown(["ranks", "gate", *(f"{n} pairs" for n in PAIRS), "false alarms at these"], rows_of(found)))
    if plot:
        draw(found, plot)


def flagged_row(results: Path, ranks: int, draws: int) -> list[str] | None:
    """How often the injected delay is found, by the whole rule of the live form."""
    sessions = sessions_in(results / "longer", LONGER[ranks])
    if not sessions:
        return None
    random, found = np.random.default_rng(0), []
    for _ in range(draws):
        verdicts = live_verdicts(drawn(random, sessions, PAIRS[-1], swap=False))
        step = next(verdict for verdict in verdicts if verdict.subject == "step")
        units = step.compared.difference.units if step.compared and step.compared.difference else 0
        found.append((any(verdict.worse for verdict in verdicts), units))
    flagged, units = np.mean([one for one, _ in found]), np.median([units for _, units in found])
    counted = [str(sum(map(len, sessions))), str(len(sessions))]
    return [str(ranks), f"{DELAYS[ranks]:.0%}", *counted, f"{flagged:.1%} of {draws}", f"{units:.0f} (median)"]


def of_live(base: Steps, new: Steps) -> bool:
    """The live form's test of the step time where it looks once, at this number of pairs."""
    logs = np.log([side.mean() for side in new]) - np.log([side.mean() for side in base])
    return of_pairs(logs, LEAST_DEVIATION).p_above <= LEVEL * SHARE


def of_medians(base: Steps, new: Steps) -> bool:
    """pytest-benchmark --benchmark-compare-fail=median:5%."""
    return bool(np.median(np.concatenate(new)) > 1.05 * np.median(np.concatenate(base)))


def of_mann_whitney(base: Steps, new: Steps) -> bool:
    """On all steps, as if they were independent."""
    return bool(stats.mannwhitneyu(np.concatenate(new), np.concatenate(base), alternative="greater").pvalue <= LEVEL)


def of_t_test(base: Steps, new: Steps) -> bool:
    """Welch's, on the means of processes, as if they were not paired."""
    means = [[side.mean() for side in sides] for sides in (new, base)]
    return bool(stats.ttest_ind(*means, equal_var=False, alternative="greater").pvalue <= LEVEL)


GATES: dict[str, Gate] = {
    "compare --live --pairs N": of_live,
    "pytest-benchmark, median:5%": of_medians,
    "Mann-Whitney on steps, 1%": of_mann_whitney,
    "t-test on means, 1%": of_t_test,
}

Found = dict[str, list[tuple[float | None, float]]]
"""By gate, for each number of pairs: the smallest change flagged in 95% of blocks, the share flagged without any."""


def smallest(sessions: Sequence[Sequence[Pair]], draws: int) -> Found:
    found: Found = {}
    timed = [[(steps_of(a), steps_of(b)) for a, b in session] for session in sessions]
    for pairs in PAIRS:
        for name, gate in GATES.items() if timed else ():
            found.setdefault(name, []).append(edge(timed, pairs, gate, draws))
    return found


def steps_of(record: object) -> npt.NDArray[np.float64]:
    measured = window(record)  # type: ignore[arg-type]
    assert measured is not None
    assert measured.step_seconds is not None
    return measured.step_seconds


def edge(sessions: Sequence[Sequence[Pair]], pairs: int, gate: Gate, draws: int) -> tuple[float | None, float]:
    """By bisection over CHANGES, since no gate flags less of a larger change."""

    def share(change: float) -> float:
        random = np.random.default_rng(1)
        flags = []
        for _ in range(draws):
            base, new = zip(*drawn(random, sessions, pairs, swap=True), strict=True)
            flags.append(gate(base, [steps * (1 + change) for steps in new]))
        return float(np.mean(flags))

    low, high = 0, len(CHANGES)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if share(CHANGES[middle]) >= POWER else (middle + 1, high)
    return (float(CHANGES[low]) if low < len(CHANGES) else None), share(0.0)


def rows_of(found: dict[int, Found]) -> list[list[str]]:
    return [
        [
            str(ranks),
            name,
            *("none" if change is None else f"{change:.1%}" for change, _ in edges),
            ", ".join(f"{false:.1%}" for _, false in edges),
        ]
        for ranks, gates_found in found.items()
        for name, edges in gates_found.items()
    ]


def draw(found: dict[int, Found], path: Path) -> None:
    """A panel per number of ranks, a line per gate."""
    from scalebench.reporting.drawing import legend, titled_canvas
    from scalebench.reporting.style import BLUE, GREY, ORANGE, VERMILION

    plot, axes = titled_canvas(["Smallest slowdown flagged in 95 of 100 comparisons"], len(found))
    for axis, (ranks, gates_found) in zip(axes, found.items(), strict=True):
        for (name, edges), color in zip(gates_found.items(), (BLUE, GREY, ORANGE, VERMILION), strict=False):
            points = [(n, 100 * change) for n, (change, _) in zip(PAIRS, edges, strict=False) if change is not None]
            axis.plot([n for n, _ in points], [c for _, c in points], "o-", color=color, label=name)
        axis.set_xscale("log", base=2)
        axis.set_xticks(PAIRS, [str(n) for n in PAIRS])
        axis.set_xlabel("pairs of runs")
        axis.set_title(f"{ranks} rank{'s' if ranks > 1 else ''}")
    axes[0].set_ylabel("slowdown (%)")
    legend(plot, axes)
    plot.savefig(path)


if __name__ == "__main__":
    main()
