"""`scalebench compare --live`: both sides measured in turn until all is known, or the last look is over."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalebench.cli.asking import read_asked
from scalebench.cli.run import WAITING, cells_of, search_asked, tell
from scalebench.cli.wording import count
from scalebench.errors import UserError
from scalebench.harness.turns import SIDES, Place, SideProcess, both, make_pair
from scalebench.machine import detect
from scalebench.matrix import BASELINE
from scalebench.matrix.request import read_list, read_whole
from scalebench.records.record import Record
from scalebench.records.store import load_records, reserved
from scalebench.spec import PlannedRun, RunSpec
from scalebench.stats.multiple import spent

if TYPE_CHECKING:
    from scalebench.analysis.verdicts import Match, Rule

LOOKS = (10, 20, 40)
MAIN = ("step", "throughput", "cell", "parity")
"""What must be known before measuring ends: other figures are told as they are then."""
QUESTION = "question.txt"
"""JSON, but no record."""

Specs = tuple[RunSpec, RunSpec]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is compared with what: the cells of both sides, in pairs, and where each side runs."""

    cells: list[Specs]
    places: tuple[Place, Place]
    parity: bool

    @property
    def differ(self) -> bool:
        """Whether the sides run in different places, so that versions may differ: that is then the question."""
        return self.places[0] != self.places[1]

    def facts(self) -> list[dict[str, Any]]:
        """What tells one question from another, per side."""
        return [
            {
                "cells": [specs[side].cell_id for specs in self.cells],
                "python": self.places[side].python,
                "checkout": str(self.places[side].checkout or ""),
            }
            for side in (0, 1)
        ]


def compare_live(base: str, new: str, rule: Rule, options: Mapping[str, Any]) -> tuple[list[Match], Rule]:
    """Measure both sides; the matched cells, and the rule at the look at which it ended.

    Raises UserError for files that cannot be compared, or a side that cannot run.
    """
    question = read_question(base, new, options)
    looks = read_looks(options["pairs"])
    results = Path(options["results"] or default_results())
    with reserved(results, waiting=lambda: tell([WAITING])):
        remember(question, results)
        tell([f"{count(len(question.cells), 'cell')}, up to {looks[-1]} pairs; "
              f"records go to {results}, where --results {results} goes on if this is stopped."])  # fmt: skip
        return Measuring(question, results, rule, looks).carry_out()


def read_question(base: str, new: str, options: Mapping[str, Any]) -> Question:
    """Raises UserError where the sides are not as many cells, or a file asks for what no comparison can do."""
    pythons = [read_python(given) for given in options["pythons"] or (Place().python,) * 2]
    checkouts = [read_checkout(given) for given in options["checkouts"] or (None, None)]
    places = [Place(python=python, checkout=checkout) for python, checkout in zip(pythons, checkouts, strict=True)]
    sides = [place.call(read_cells, Path(given).absolute()) for place, given in zip(places, (base, new), strict=True)]
    (a, parity_a), (b, parity_b) = sides
    if len(a) != len(b):
        raise UserError(f"'{base}' asks for {len(a)} cells and '{new}' for {len(b)}: they are compared one by one.")
    return Question(cells=list(zip(a, b, strict=True)), places=(places[0], places[1]), parity=parity_a or parity_b)


def read_cells(path: Path) -> tuple[list[RunSpec], bool]:
    """The cells that a configuration file asks for, and whether their parity is to be checked."""
    asked = read_asked({}, path)
    request = asked.request()
    if search_asked(asked, request):
        raise UserError(f"{path}: a search finds its own cells; say what it found instead of auto, max or best.")
    request = request.model_copy(update={"baseline": bool(request.baseline)})
    return cells_of(asked, request, detect(request.device or "auto")), bool(request.parity)


def read_python(given: str) -> str:
    """An interpreter, found from any folder; links to it are not followed, since they are what makes an environment."""
    return os.path.abspath(given) if os.sep in given else given


def read_checkout(given: str | None) -> Path | None:
    """A source tree. Raises UserError for what is none, or one of a scalebench that cannot be a side."""
    if given is None:
        return None
    folder = Path(given).resolve()
    if not folder.is_dir():
        raise UserError(f"--checkouts {given}: there is no such folder. Make one: git worktree add {given} REVISION")
    ours = folder / "scalebench"
    if (ours / "__init__.py").exists() and not (ours / "harness" / "side.py").exists():
        raise UserError(
            f"--checkouts {given}: its scalebench is too old to be compared (no scalebench/harness/side.py)"
        )
    return folder


def read_looks(given: str | None) -> tuple[int, ...]:
    """Growing numbers of pairs. Raises UserError."""
    try:
        looks = tuple(read_whole(item, least=4) for item in read_list(given)) if given else LOOKS
    except ValueError as error:
        raise UserError(f"--pairs {given}: {error}, or several separated by commas.") from None
    if list(looks) != sorted(set(looks)):
        raise UserError(f"--pairs {given}: expected growing numbers, such as 10,20,40.")
    return looks


def default_results() -> Path:
    """A folder of its own."""
    from scalebench.harness.runner import session_name

    return Path("results") / f"live-{session_name()}"


def remember(question: Question, results: Path) -> None:
    """Write down what is compared here. Raises UserError when the folder is another question's."""
    path = results / QUESTION
    try:
        known = json.loads(path.read_text()) if path.exists() else None
    except ValueError:
        raise UserError(f"{path} is damaged. Remove it, or choose another folder: --results DIR") from None
    if known is None:
        path.write_text(json.dumps(question.facts(), indent=1) + "\n")
    elif known != question.facts():
        raise UserError(f"'{results}' holds the pairs of another comparison. Choose another folder: --results DIR")


@dataclass(kw_only=True)
class State:
    """What is recorded of one cell: the records of A and B; `failed` ends its pairs."""

    records: tuple[list[Record], list[Record]] = field(default_factory=lambda: ([], []))
    failed: bool = False

    def take(self, made: Sequence[Record]) -> None:
        for side, record in zip(self.records, made, strict=True):
            side.append(record)
        self.failed = self.failed or any(record.status not in ("ok", "interrupted") for record in made)

    @property
    def pairs(self) -> int:
        """Whole ones."""
        return len(self._whole())

    def _whole(self) -> list[tuple[int, str]]:
        done = [{(r.repeat, r.session) for r in side if r.kind == "run" and r.status == "ok"} for side in self.records]
        return sorted(done[0] & done[1])

    def first(self, pairs: int) -> list[list[Record]]:
        """The records of both sides, of whole pairs only so many: a look always sees the same."""
        chosen = set(self._whole()[:pairs])
        return [
            [r for r in side if r.kind != "run" or r.status != "ok" or (r.repeat, r.session) in chosen]
            for side in self.records
        ]

    @property
    def next_pair(self) -> int:
        return 1 + max((r.repeat for side in self.records for r in side if r.kind == "run"), default=-1)


class Measuring:
    """The rounds between looks, and the looks."""

    def __init__(self, question: Question, results: Path, rule: Rule, looks: Sequence[int]) -> None:
        self._question, self._results, self._looks = question, results, looks
        self._rules = [
            replace(rule, level=level, same_level=same)
            for level, same in zip(spent(rule.level, looks), spent(rule.same_level, looks), strict=True)
        ]
        self._states = {specs: State() for specs in question.cells}
        self._read_stored()

    def carry_out(self) -> tuple[list[Match], Rule]:
        """Measure until all that matters is known."""
        runs = [[PlannedRun(spec=specs[side]) for specs in self._question.cells] for side in (0, 1)]
        with contextlib.ExitStack() as stack:
            sides: list[SideProcess] = []
            for pairs, rule in zip(self._looks, self._rules, strict=True):
                if not self._reached(pairs):
                    sides = sides or self._begin(stack.enter_context(both(self._question.places, self._results, runs)))
                    self._measure(sides, pairs)
                matches = self._matches(pairs)
                if known(matches, rule):
                    break
        return matches, rule

    def _begin(self, sides: list[SideProcess]) -> list[SideProcess]:
        """Parity first, if it is asked for: before speed, that the same was trained."""
        for specs, state in self._states.items() if self._question.parity else ():
            checked = any(record.kind == "parity" for record in state.records[1])
            if not checked and BASELINE not in {spec.strategy for spec in specs}:
                state.take(
                    [side.perform(PlannedRun(spec=s, kind="parity")) for side, s in zip(sides, specs, strict=True)]
                )
        return sides

    def _reached(self, pairs: int) -> bool:
        return all(state.failed or state.pairs >= pairs for state in self._states.values())

    def _measure(self, sides: Sequence[SideProcess], pairs: int) -> None:
        """Rounds of one pair of each cell, the cells in random order, until there are enough."""
        while not self._reached(pairs):
            left = [(specs, state) for specs, state in self._states.items() if not state.failed and state.pairs < pairs]
            for specs, state in random.sample(left, len(left)):
                made = make_pair(sides, specs, state.next_pair)
                state.take(made)
                tell([pair_line(specs, state, made, pairs)])

    def _matches(self, pairs: int) -> list[Match]:
        from scalebench.analysis.verdicts import match_as_asked

        states = self._states.values()
        return [match_as_asked(*state.first(pairs), differ=self._question.differ) for state in states]

    def _read_stored(self) -> None:
        """What an earlier command measured of the same question."""
        for side, name in enumerate(SIDES):
            folder = self._results / name
            for record in load_records(folder).records if folder.exists() else []:
                for specs, state in self._states.items():
                    if record.spec == specs[side] and record.status != "interrupted":
                        state.records[side].append(record)
                        state.failed = state.failed or record.status != "ok"


def known(matches: Sequence[Match], rule: Rule) -> bool:
    """Whether nothing that matters is left open."""
    from scalebench.analysis.verdicts import decide

    return not any(verdict.open and verdict.subject in MAIN for verdict in decide(matches, rule))


def pair_line(specs: Specs, state: State, made: Sequence[Record], look: int) -> str:
    """`[3/10] ddp, 2 ranks, fp32: A 12.1 ms, B 12.4 ms`."""
    from scalebench.analysis.verdicts.metrics import mean_step
    from scalebench.reporting.text import milliseconds

    a, b = specs
    both = a.strategy if a.strategy == b.strategy else f"{a.strategy} and {b.strategy}"
    name = f"{both}, {count(a.world_size, 'rank')}, {a.precision}"
    times = [mean_step(record) for record in made]
    told = [
        record.status if time is None else f"{milliseconds(time)} ms" for record, time in zip(made, times, strict=True)
    ]
    return f"[{state.pairs}/{look}] {name}: A {told[0]}, B {told[1]}"
