"""Do intervals of differences say "none" where there is none? Groups drawn from repeats of one and the same cell.

    for i in 1 2 3 4; do scalebench run --strategy ddp --gpus 1,2 --repeats 15 --results DIR; done
    python -m tests.benchmarks.resampling --results DIR

Both groups of a pair are fresh processes of one cell, so their true ratio is 1; the interval of a report
(scalebench.stats.geometric_ratio) should contain it in 95% of pairs. It depends on how groups are drawn:

blocks
    What a report compares. Two cells of one session stand in the same randomised blocks, so of each two successive
    repeats of a session one goes to either group, by chance. Whatever the machine did in that hour, it did to both.
sessions ignored
    Both groups from all processes at once. Exchangeable by construction, even if sessions differ widely: it tests
    Student's t on such figures and nothing else. It is kinder than any real comparison, and so no evidence for one.
sessions apart
    One group from one session, one from another: what a report refuses an interval. The share shows why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np

from scalebench.analysis.cells import Cell, cells, items_per_second
from scalebench.records.store import load_records
from scalebench.stats.intervals import geometric_ratio
from tests.benchmarks import tables

TARGET = 0.93
MANY = 5000
"""Pairs that tell the share itself, beside the draw of a few of them."""

Sessions = Sequence[Sequence[float]]
"""The figures of one cell's processes in the order they ran, per session."""
Pair = tuple[list[float], list[float]]
Draw = Callable[[np.random.Generator, Sessions, int], Pair]


@click.command(help=__doc__)
@click.option("--results", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--group", default=5, show_default=True, help="Processes in each group.")
@click.option("--pairs", default=200, show_default=True)
@click.option("--least", default=60, show_default=True, help="Processes a cell must have.")
@click.option("--seed", default=0, show_default=True)
def main(results: Path, group: int, pairs: int, least: int, seed: int) -> None:
    rows = []
    for cell in cells(load_records(results).records):
        sessions = [cell.values(items_per_second, session) for session in cell.sessions]
        if sum(map(len, sessions)) >= least:
            rows += cell_rows(cell, sessions, group, pairs, seed)
    if not rows:
        raise click.ClickException(f"no cell under '{results}' has {least} processes; measure more, or lower --least")
    header = ["strategy", "ranks", "processes", "sessions", "groups drawn", f"contain 1, of {pairs}", f"of {MANY}"]
    print(tables.markdown([*header, "target"], rows))


def cell_rows(cell: Cell, sessions: Sessions, group: int, pairs: int, seed: int) -> list[list[str]]:
    """A row per way of drawing groups."""
    counted = [cell.spec.strategy, str(cell.spec.world_size), str(sum(map(len, sessions))), str(len(sessions))]
    rows = []
    for name, draw in DRAWS.items():
        shares = [containing(draw, sessions, group, number, seed) for number in (pairs, MANY)]
        verdict = "none: refused" if draw is apart else "met" if shares[0] >= TARGET else "missed"
        rows.append([*counted, name, *(f"{share:.1%}" for share in shares), f"{TARGET:.0%}: {verdict}"])
    return rows


def containing(draw: Draw, sessions: Sessions, group: int, pairs: int, seed: int) -> float:
    """Share of drawn pairs of groups whose interval contains the true ratio, 1."""
    random = np.random.default_rng(seed)
    found = [geometric_ratio(*draw(random, sessions, group)) for _ in range(pairs)]
    return float(np.mean([e.low is not None and e.high is not None and e.low <= 1 <= e.high for e in found]))


def in_blocks(random: np.random.Generator, sessions: Sessions, group: int) -> Pair:
    """`group` pairs of neighbours from one session, each pair's two in a random order."""
    session = _any(random, [session for session in sessions if len(session) >= 2 * group])
    skipped = random.integers(0, len(session) - 2 * group + 1)
    neighbours = random.permuted(np.reshape(session[skipped : skipped + 2 * group], (group, 2)), axis=1)
    return neighbours[:, 0].tolist(), neighbours[:, 1].tolist()


def from_all(random: np.random.Generator, sessions: Sessions, group: int) -> Pair:
    """Two groups without a process in common, from all sessions."""
    drawn = random.choice([value for session in sessions for value in session], 2 * group, replace=False).tolist()
    return drawn[:group], drawn[group:]


def apart(random: np.random.Generator, sessions: Sessions, group: int) -> Pair:
    """One group from one session, the other from another."""
    one, other = random.choice(len(sessions), 2, replace=False)
    first, second = (random.choice(sessions[which], group, replace=False).tolist() for which in (one, other))
    return first, second


def _any(random: np.random.Generator, sessions: Sessions) -> Sequence[float]:
    return sessions[random.integers(len(sessions))]


DRAWS: dict[str, Draw] = {"blocks": in_blocks, "sessions ignored": from_all, "sessions apart": apart}


if __name__ == "__main__":
    main()
