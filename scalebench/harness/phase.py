"""Signs of life: which phase each rank is in and how many batches it has begun, in memory that its launcher sees.

A rank writes whole numbers of its own and waits for nobody; a beat costs well under a microsecond. The launcher can
tell a rank that stands still from one that works, which a thread that beats by itself could not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ctypes import c_longlong
from multiprocessing.sharedctypes import RawArray
from typing import TypeVar

PHASES = (
    "starting", "joining", "preparing", "loading", "warm-up", "measuring", "validating", "saving", "callbacks",
    "testing", "diagnostics", "comparing",
)  # fmt: skip

Batches = TypeVar("Batches")


class Pulse:
    """Of each rank of a launch its phase and its beats. Travels to the ranks as they start, and only then."""

    def __init__(self, ranks: int) -> None:
        self._cells = RawArray(c_longlong, 2 * ranks)

    def enter(self, rank: int, phase: str) -> None:
        self._cells[2 * rank] = PHASES.index(phase)
        self.beat(rank)

    def beat(self, rank: int) -> None:
        self._cells[2 * rank + 1] += 1

    def of(self, rank: int) -> tuple[int, int]:
        """How far `rank` has come: its phase, by its place in PHASES, and its beats."""
        return self._cells[2 * rank], self._cells[2 * rank + 1]

    def phase(self, rank: int) -> str:
        return PHASES[self._cells[2 * rank]]


class Phase:
    """One rank's side of the pulse. Without one (under a foreign launcher) nothing is told."""

    def __init__(self, pulse: Pulse | None, rank: int) -> None:
        self._pulse, self._rank = pulse, rank

    def enter(self, name: str) -> None:
        if self._pulse:
            self._pulse.enter(self._rank, name)

    def beat(self) -> None:
        if self._pulse:
            self._pulse.beat(self._rank)

    def beating(self, batches: Iterable[Batches]) -> Iterator[Batches]:
        """`batches`, with a beat before each."""
        if self._pulse is None:
            yield from batches
            return
        beat, rank = self._pulse.beat, self._rank
        for batch in batches:
            beat(rank)
            yield batch
