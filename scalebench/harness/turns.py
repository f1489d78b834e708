"""Two sides of a comparison measured in turn, in pairs whose order is A B, B A or B A, A B by chance.

Whatever the machine does meanwhile it does to both; a drift over four runs cancels (Hilbert's ABBA). Each side is a
process of its own, so that they may be other source trees or other interpreters, and equal in all else.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from scalebench.errors import UserError
from scalebench.harness.runner import session_name
from scalebench.records.probe import Probe
from scalebench.records.record import Record
from scalebench.records.store import read_record
from scalebench.spec import PlannedRun, RunSpec

SIDES = ("a", "b")
Returned = TypeVar("Returned")

LAST_RUN_SECONDS = 30.0
"""How long a side that is asked to stop may take to end its run and record it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a side runs: an interpreter, and the source tree that is its current folder, if that is not ours.

    What is in the tree is what runs: scalebench itself where it is scalebench's, one's own model where it has that.
    """

    python: str = sys.executable
    checkout: Path | None = None

    def environment(self) -> dict[str, str]:
        """The process's own, with the source tree before everything else that is imported.

        What it inherits of relative names is ours, not the tree's.
        """
        before = [os.path.abspath(name) for name in os.environ.get("PYTHONPATH", "").split(os.pathsep) if name]
        tree = [] if self.checkout is None else [str(self.checkout)]
        return os.environ | {"PYTHONPATH": os.pathsep.join([*tree, *before])}

    def call(self, function: Callable[..., Returned], *arguments: object) -> Returned:
        """What `function` returns in the source tree, in a process that has imported nothing from another.

        Raises what it raises, and UserError when something of the tree ends the process.
        """
        if self.checkout is None:
            return function(*arguments)
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=enter, initargs=(self.checkout,)) as there:
            try:
                return there.submit(function, *arguments).result()
            except BrokenProcessPool:
                raise UserError(f"something in {self.checkout} ends the process that imports it.") from None


def enter(folder: Path) -> None:
    """From now on names of files and of modules are those in `folder`. Ctrl-C is left to the process that waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir(folder)
    sys.path.insert(0, str(folder))


class SideProcess:
    """A running side (scalebench.harness.side); of the two never more than one works at a time."""

    def __init__(self, name: str, place: Place, results: Path, session: str, runs: Sequence[PlannedRun]) -> None:
        self._name = name
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the side
        try:
            self._process = subprocess.Popen(
                [place.python, "-m", "scalebench.harness.side", str(results.absolute() / name), session],
                cwd=place.checkout,  # which `-m` imports from first
                env=place.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                start_new_session=True,  # Ctrl-C reaches whoever waits for it, who lets it end its run
            )
        except OSError as error:
            raise UserError(f"side {name}: '{place.python}' cannot be started: {error.strerror}.") from error
        self._ask("[" + ",".join(_said_briefly(run) for run in runs) + "]")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(LAST_RUN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def perform(self, run: PlannedRun) -> Record:
        """Make one run and return its record, whatever came of it. Raises UserError when the side itself fails."""
        found = read_record(Path(self._ask(_said_briefly(run))["path"]))
        assert not isinstance(found, Probe)
        return found

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        told = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(told) if told else {"error": self._last_words()}
        if "error" in answer:
            raise UserError(f"side {self._name}: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = [line for line in self._said.read().splitlines() if line.strip()]
        return f"its process ended: {lines[-1].strip() if lines else 'it said nothing'}"


def _said_briefly(run: PlannedRun) -> str:
    """Without what stands at its default, which another version may not know."""
    return run.model_dump_json(exclude_defaults=True)


@contextlib.contextmanager
def both(places: Sequence[Place], results: Path, runs: Sequence[Sequence[PlannedRun]]) -> Iterator[list[SideProcess]]:
    """Both sides at work on a new session, one prepared after the other. Raises UserError when one cannot be."""
    session = session_name()
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(SideProcess(name, place, results, session, planned))
            for name, place, planned in zip(SIDES, places, runs, strict=True)
        ]


def order(specs: tuple[RunSpec, RunSpec], pair: int) -> tuple[int, int]:
    """Which side goes first in pair number `pair`: by chance in every second one, the other in the next."""
    seed = f"{specs[0].cell_id} {specs[1].cell_id} {specs[0].seed} {pair // 2}"
    first = random.Random(seed).randrange(2)
    first = first if pair % 2 == 0 else 1 - first
    return first, 1 - first


def make_pair(sides: Sequence[SideProcess], specs: tuple[RunSpec, RunSpec], pair: int) -> tuple[Record, Record]:
    """One run of each side in turn; the records of A and B."""
    made = {which: sides[which].perform(PlannedRun(spec=specs[which], repeat=pair)) for which in order(specs, pair)}
    return made[0], made[1]
