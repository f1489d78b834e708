"""Real pairs of runs measured in turn as `scalebench compare --live` makes them, and what it says of blocks of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from scalebench.analysis.verdicts import Rule, Verdict, decide, match_as_asked
from scalebench.cli.live import LOOKS
from scalebench.harness.turns import SIDES, Place, both, make_pair
from scalebench.records.record import Record
from scalebench.records.store import load_records
from scalebench.spec import PlannedRun, RunSpec
from scalebench.stats.multiple import spent
from tests.distributed.planted import busy_core

ROOT = Path(__file__).parents[2]
REGRESSED = ROOT / "tests" / "data" / "regressed"

Pair = tuple[Record, Record]

CONSECUTIVE = 10


def spec(ranks: int, delay: float = 0.0) -> RunSpec:
    """DDP of gpt `tiny` on `ranks` cores, made longer by the share `delay` of each step."""
    return RunSpec(
        workload="gpt",
        size="tiny",
        data="synthetic",
        strategy="regressed_ddp",
        strategy_options={"delay": delay} if delay else {},
        device="cpu",
        world_size=ranks,
        threads_per_rank=1,
        cores_per_rank=1,
        micro_batch=4,
        warmup_steps=20,
        steps=100,
        diagnostics=False,
    )


def measure(
    cells: Sequence[tuple[RunSpec, RunSpec]], pairs: int, results: Path, loaded: bool, tell: Callable[[str], None]
) -> None:
    """One session of `pairs` pairs of each cell into `results`; what is there counts, so that it may be stopped."""
    sys.path.insert(0, str(REGRESSED))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(REGRESSED), os.environ.get("PYTHONPATH", "")])
    done = {specs: len(pairs_of(results, specs)) for specs in cells}
    runs = [[PlannedRun(spec=specs[side]) for specs in cells] for side in (0, 1)]
    disturbed: AbstractContextManager[Any] = busy_core(0) if loaded else nullcontext()
    if min(done.values()) >= pairs:
        return
    with disturbed, both((Place(), Place()), results, runs) as sides:
        for number in range(pairs):
            for specs in cells:
                if number >= done[specs]:
                    make_pair(sides, specs, next_repeat(results, specs))
                    tell(f"{results}: pair {number + 1} of {pairs}, {specs[1].label}")


def next_repeat(results: Path, specs: tuple[RunSpec, RunSpec]) -> int:
    """A number that no run of these cells has."""
    made = [records_of(results, side, one) for side, one in zip(SIDES, specs, strict=True)]
    return 1 + max((record.repeat for side in made for record in side), default=-1)


def records_of(results: Path, side: str, one: RunSpec) -> list[Record]:
    folder = results / side
    if not folder.exists():
        return []
    return [record for record in load_records(folder, {one.cell_id}).records if record.status == "ok"]


def pairs_of(results: Path, specs: tuple[RunSpec, RunSpec]) -> list[Pair]:
    """The whole pairs of a session's folder, in the order they were made."""
    a, b = (
        {(record.repeat, record.session): record for record in records_of(results, side, one)}
        for side, one in zip(SIDES, specs, strict=True)
    )
    return [(a[key], b[key]) for key in sorted(a.keys() & b.keys())]


def sessions_in(folder: Path, specs: tuple[RunSpec, RunSpec]) -> list[list[Pair]]:
    """The pairs of each session in `folder`."""
    return [found for session in sorted(folder.glob("*")) if (found := pairs_of(session, specs))]


def live_verdicts(pairs: Sequence[Pair], looks: Sequence[int] = LOOKS) -> list[Verdict]:
    """What the live form says of these pairs: at the first look at which the step time is known, or at the last."""
    levels = zip(looks, spent(Rule().level, looks), spent(Rule().same_level, looks), strict=True)
    verdicts: list[Verdict] = []
    for look, level, same_level in levels:
        base, new = zip(*map(numbered, pairs[:look], count()), strict=True)
        verdicts = decide([match_as_asked(base, new, differ=False)], Rule(level=level, same_level=same_level))
        if not any(verdict.open for verdict in verdicts if verdict.subject == "step"):
            break
    return verdicts


def numbered(pair: Pair, number: int) -> Pair:
    """A pair that was drawn twice is two."""
    a, b = (record.model_copy(update={"repeat": number}) for record in pair)
    return a, b


def drawn(random: np.random.Generator, sessions: Sequence[Sequence[Pair]], length: int, swap: bool) -> list[Pair]:
    """`length` pairs, as blocks of `CONSECUTIVE` successive ones of a session, each from a random place of all; with
    `swap`, either side may be called the baseline.

    The moving-block bootstrap (Kuensch, Annals of Statistics 17, 1989): what neighbours have in common stays.
    """
    block = min(CONSECUTIVE, length)
    starts = [session[first : first + block] for session in sessions for first in range(len(session) - block + 1)]
    chosen = random.integers(len(starts), size=-(-length // block))
    found = [pair for place in chosen for pair in starts[place]][:length]
    return [(b, a) for a, b in found] if swap and random.random() < 0.5 else found


def blocks(sessions: Sequence[Sequence[Pair]], length: int) -> Iterator[list[Pair]]:
    """The same without overlap: every pair in one block at most."""
    for session in sessions:
        for first in range(0, len(session) - length + 1, length):
            yield list(session[first : first + length])
