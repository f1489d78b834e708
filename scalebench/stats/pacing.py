"""How many steps a run warms up and times: the rule that the harness follows, and that simulations test.

Steps are run in chunks. Between two chunks the rule looks at all steps so far, but only where their number has doubled:
were it to look after every chunk, it would stop just when an interval happens to be too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from .steady import settled
from .within_run import autocorrelation_time, half_width, median_interval

FIRST_CHUNK = 4
"""Steps that tell how long a step takes, so that the next chunk does not exceed the time allowed."""
LEAST_WARMUP = 16
LEAST_WINDOW = 8
"""Timed steps that are run even when they take longer than allowed: without any there would be no figure at all."""
LONGEST_CHUNK = 256
"""Python's garbage is collected between chunks only, so a chunk has an end even where the row has none."""
REFILL_STEPS = 2
"""Steps after a pause that refill the pipeline (queued launches, prefetched data); estimates drop them."""

ENOUGH_STEPS = 100
"""Timed steps before precision may end the run: in fewer, one of two speeds that take turns may not have come up."""
ENOUGH_MEMORIES = 40.0
"""Autocorrelation times that the window must have before its interval may end the run: choosing the moment by the
interval costs coverage, most of it where the series is short."""
FOREVER = 2**31

Stopped = Literal["steps", "precise", "max_seconds"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How long to warm up and to measure.

    Attributes:
        warmup_steps: steps before the window, exactly; None: until steps are steady.
        steps: timed steps, exactly; None: until the median's interval is within `precision` (half its width over the
            median).
        max_seconds: bounds the time of the steps whose number is not exact; the first step of all is not counted.
    """

    warmup_steps: int | None = None
    steps: int | None = None
    precision: float = 0.0
    max_seconds: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Steps to run next without a pause. `opens`: the window begins with them, whatever was thought before."""

    steps: int
    opens: bool


def kept(chunk_starts: Sequence[int], steps: int, refill: int = REFILL_STEPS) -> npt.NDArray[np.bool_]:
    """Which of `steps` steps estimates may use, shape (steps,): all but the `refill` that follow each start."""
    mask = np.ones(steps, dtype=bool)
    for start in chunk_starts:
        mask[start : start + refill] = False
    return mask


def warm_up_tail(first: int) -> slice:
    """The steps before a window that begins at step `first` which must already be like those in it.

    All but the first quarter: so a window begins after at least 4 times the steps that visibly differ.
    """
    return slice(first // 4, first)


def pace(rule: Rule) -> Generator[Chunk, Sequence[float], Stopped]:
    """Yields each chunk to run, takes its step times (seconds), and returns why the run is over.

    A window that is not steady when its end is looked at is given up, and the next one begins there: so a window is
    never shorter than the warm-up before it, if there is time.
    """
    row = _Row(rule)
    yield from row.warm_up()
    if rule.warmup_steps is None or rule.steps is None:
        while (yield from row.double()):
            if rule.warmup_steps is None and not row.settled():
                if row.affordable() >= row.count // 2:
                    row.open()
            elif rule.steps is not None:
                break
            elif row.precise():
                return "precise"
    if rule.steps is not None:
        row.open()
        yield from row.run(REFILL_STEPS + rule.steps)
        return "steps"
    if row.timed < LEAST_WINDOW:
        yield from row.run(REFILL_STEPS + LEAST_WINDOW - row.timed)
    return "max_seconds"


@dataclass
class _Row:
    """All steps so far, and where the window begins."""

    rule: Rule
    first: int | None = None
    durations: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.durations)

    @property
    def timed(self) -> int:
        return len(self._steps(slice(self.first, None)))

    def run(self, steps: int) -> Generator[Chunk, Sequence[float], None]:
        self.starts.append(self.count)
        self.durations.extend((yield Chunk(steps=steps, opens=self.count == self.first)))

    def warm_up(self) -> Generator[Chunk, Sequence[float], None]:
        yield from self.run(self.rule.warmup_steps or FIRST_CHUNK)
        rest = min(LEAST_WARMUP - self.count, self.affordable())
        if self.rule.warmup_steps is None and rest > 0:
            yield from self.run(rest)
        self.open()

    def double(self) -> Generator[Chunk, Sequence[float], bool]:
        """Run until there are twice as many steps; False when time was up before."""
        exact = self.rule.warmup_steps or 0
        target = exact + 2 * max(self.count - exact, LEAST_WARMUP)
        while self.count < target and (affordable := self.affordable()) > REFILL_STEPS:
            yield from self.run(min(target - self.count, LONGEST_CHUNK, affordable))
        return self.count >= target

    def open(self) -> None:
        """Let the window begin with the next step."""
        self.first = self.count

    def affordable(self) -> int:
        """How many more steps there is time for, if they take as long as most of the last chunk."""
        left = self.rule.max_seconds - sum(self.durations[self.rule.warmup_steps or 1 :])
        typical = float(np.median(self.durations[self.starts[-1] :]))
        return int(min(max(0.0, left) / typical, FOREVER))

    def settled(self) -> bool:
        return settled(self._steps(warm_up_tail(self.first or 0)), self._steps(slice(self.first, None)))

    def precise(self) -> bool:
        window = self._steps(slice(self.first, None))
        width = half_width(median_interval(window)) if len(window) >= ENOUGH_STEPS else None
        if width is None or width > self.rule.precision:
            return False
        return len(window) >= ENOUGH_MEMORIES * autocorrelation_time(window)

    def _steps(self, part: slice) -> npt.NDArray[np.float64]:
        return np.array(self.durations)[part][kept(self.starts, self.count)[part]]
