"""False alarms of `compare --live`: both sides are the very same, so that every `slower` or `faster` is wrong.

    python -m tests.benchmarks.aa_verdicts --results DIR --session 1           # then 2, 3, 4: on different occasions
    python -m tests.benchmarks.aa_verdicts --results DIR --session 1 --loaded  # beside a busy program
    python -m tests.benchmarks.aa_verdicts --results DIR --show

A session is 40 pairs of one and of two ranks (about a minute for 10 pairs of each on two cores); given again it goes on
where it was stopped. Shown are the verdicts on real comparisons, successive blocks of 10 pairs that share none, each
figure of each; and on 40 pairs drawn from all sessions in blocks of 10 successive ones, by the whole rule with its
looks at 10, 20 and 40.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from scalebench.cli.live import LOOKS
from tests.benchmarks import tables
from tests.benchmarks.in_turn import Pair, blocks, drawn, live_verdicts, measure, sessions_in, spec

RANKS = (1, 2)
BLOCK = 10
CELLS = [(spec(ranks), spec(ranks)) for ranks in RANKS]
FALSE = ("slower", "faster", "more", "less")


@click.command(help=__doc__)
@click.option("--results", type=click.Path(path_type=Path), required=True)
@click.option("--session", type=int, default=1, show_default=True)
@click.option("--loaded", is_flag=True, help="A program keeps core 0 busy meanwhile.")
@click.option("--pairs", default=40, show_default=True)
@click.option("--draws", default=2000, show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing.")
def main(results: Path, session: int, loaded: bool, pairs: int, draws: int, show: bool) -> None:
    if not show:
        measure(CELLS, pairs, results / condition(loaded) / str(session), loaded, print)
        return
    rows = [row for loaded in (False, True) for cell in CELLS if (row := row_of(results, loaded, cell, draws))]
    heads = ["machine", "ranks", "pairs", "sessions", "real verdicts", "false", "false slower", "inconclusive steps"]
    print(tables.markdown([*heads, f"of {draws} drawn, false slower", "false", "inconclusive"], rows))


def condition(loaded: bool) -> str:
    return "loaded" if loaded else "quiet"


def row_of(results: Path, loaded: bool, cell: tuple, draws: int) -> list[str] | None:
    """The figures of one cell; None where it was not measured."""
    sessions = sessions_in(results / condition(loaded), cell)
    if not any(len(session) >= BLOCK for session in sessions):
        return None
    real = [verdict for block in blocks(sessions, BLOCK) for verdict in live_verdicts(block, (BLOCK,))]
    tested = Counter(verdict.outcome for verdict in real if verdict.low is not None)
    steps = [verdict.outcome for verdict in real if verdict.subject == "step"]
    counted = [str(cell[0].world_size), str(sum(map(len, sessions))), str(len(sessions))]
    false, slower = sum(tested[name] for name in FALSE), tested["slower"] + tested["more"]
    share = f"{np.mean([step == 'inconclusive' for step in steps]):.0%}"
    return [
        condition(loaded),
        *counted,
        str(tested.total()),
        str(false),
        str(slower),
        share,
        *resampled(sessions, draws),
    ]


def resampled(sessions: Sequence[Sequence[Pair]], draws: int) -> list[str]:
    """Shares of drawn comparisons in which some figure is wrongly slower, or wrongly anything, or the step unknown."""
    random, found = np.random.default_rng(0), []
    for _ in range(draws):
        verdicts = live_verdicts(drawn(random, sessions, LOOKS[-1], swap=True))
        names = {verdict.outcome for verdict in verdicts if verdict.low is not None}
        step = next(verdict.outcome for verdict in verdicts if verdict.subject == "step")
        found.append((bool(names & {"slower", "more"}), bool(names & set(FALSE)), step == "inconclusive"))
    return [f"{share:.2%}" for share in np.mean(found, axis=0)]


if __name__ == "__main__":
    main()
