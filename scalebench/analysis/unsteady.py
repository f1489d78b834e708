"""What a run's own step times say against its figure: not settled, drifting, too few, stalling, of two kinds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from scalebench.records.record import Record
from scalebench.remembered import remembered
from scalebench.stats.irregular import stalls, two_modes
from scalebench.stats.pacing import ENOUGH_MEMORIES
from scalebench.stats.steady import unlike
from scalebench.stats.within_run import (
    LEAST_STEPS,
    autocorrelation_time,
    drift,
    half_width,
    median_interval,
    too_short,
)

from .steps import Window, window

Kind = Literal[
    "never settled",
    "drift",
    "too short",
    "imprecise",
    "stalls",
    "periodic stalls",
    "two speeds",
    "CPU taken by others",
    "CPU quota",
    "other GPU processes",
    "throttled clocks",
    "recompiled",
    "allocator retries",
    "memory nearly full",
    "oversubscribed",
    "steps off the wall",
]
LEAST_LOSS = 0.01
"""Share of the window that stalls must take before they are mentioned, unless they are periodic."""

MOST_PATIENCE = 10.0
"""Times as long as now that a run may be advised to go on."""

Steps = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Instability:
    """Something about a run that its figure suffers from, and what to do. `size` orders instances of one kind."""

    kind: Kind
    seen: str
    advice: str
    size: float = 0.0


def of_steps(record: Record) -> Iterator[Instability]:
    """What the step times show; nothing where ranks share no clock."""
    measured = window(record)
    if measured is None or measured.step_seconds is None:
        return
    steps = measured.step_seconds
    change = drift(steps)
    level = (never_settled(record, measured, steps), short(record, measured, steps), two_speeds(steps))
    # What drifts also differs from what came before, seems to remember for ever, and can look like two speeds.
    of_level = level if change is None else (drifting(change),)
    yield from (one for one in (*of_level, imprecise(record, measured), stalling(steps)) if one)


def never_settled(record: Record, measured: Window, steps: Steps) -> Instability | None:
    """The steps just before the window differ from those in it."""
    before = measured.before_seconds
    if before is None or not unlike(before, steps):
        return None
    change = float(np.median(before) / np.median(steps)) - 1
    exact = record.spec.warmup_steps
    return Instability(
        kind="never settled",
        seen=f"the steps before the window took {abs(change):.1%} {'more' if change > 0 else 'less'} than those in it",
        advice=longer(record, measured, 4.0) if exact is None else f"leave --warmup-steps {exact} out, or double it",
        size=abs(change),
    )


def drifting(change: float) -> Instability:
    """The median changes over the window."""
    return Instability(
        kind="drift",
        seen=f"steps got {abs(change):.1%} {'slower' if change > 0 else 'faster'} between the window's ends",
        advice="look for clocks that heat throttles and for memory or logs that grow; time for longer (--max-seconds)",
        size=abs(change),
    )


def short(record: Record, measured: Window, steps: Steps) -> Instability | None:
    """Too few steps for how long they remember."""
    if not too_short(steps):
        return None
    wanted = needed_steps(steps)
    if record.spec.steps is None:
        advice = longer(record, measured, wanted / len(steps))
    else:
        advice = f"--steps {two_digits(wanted)}"
    return Instability(
        kind="too short",
        seen=f"{len(steps)} timed steps, {wanted} are needed for an interval that can be trusted",
        advice=advice,
        size=wanted / len(steps),
    )


def imprecise(record: Record, measured: Window) -> Instability | None:
    """The time allowed was over before the median was known as asked."""
    width, target = precision_reached(record), record.spec.target_precision
    if width is None or target is None or width <= target:
        return None
    return Instability(
        kind="imprecise",
        seen=f"the median step is known to ±{width:.1%} and ±{target:.1%} was asked",
        advice=longer(record, measured, (width / target) ** 2),
        size=width,
    )


@remembered
def precision_reached(record: Record) -> float | None:
    """Half the width of the interval of the run's median step over the median; None when there is no interval."""
    measured = window(record)
    if measured is None or measured.step_seconds is None:
        return None
    return half_width(median_interval(measured.step_seconds))


def stalling(steps: Steps) -> Instability | None:
    """Single steps are far slower than the rest."""
    found = stalls(steps)
    if found is None or (found.lost < LEAST_LOSS and found.period is None):
        return None
    seen = f"{found.count} of {len(steps)} steps stalled and took {found.lost:.1%} of the time"
    if found.period is None:
        return Instability(
            kind="stalls", seen=seen, advice="close other programs; look at the data (--num-workers)", size=found.lost
        )
    return Instability(
        kind="periodic stalls",
        seen=f"{seen}, one every {found.period} steps",
        advice="find what comes that often: fetching data (--num-workers), logging, a scheduled job",
        size=found.lost,
    )


def two_speeds(steps: Steps) -> Instability | None:
    """Steps have two typical durations, so that the median depends on how often each came up.

    Stalls, which can look the same in a histogram, are told as such.
    """
    found = two_modes(steps) if stalls(steps) is None else None
    if found is None:
        return None
    slow, fast = f"{found.slow * 1e3:.4g} ms", f"{found.fast * 1e3:.4g} ms"
    return Instability(
        kind="two speeds",
        seen=f"{found.share_slow:.0%} of the steps took about {slow}, the others {fast}",
        advice="look for clocks that step, memory on another socket, batches of two sizes; compare throughputs",
        size=found.slow / found.fast,
    )


def needed_steps(steps: Steps) -> int:
    """How many of such steps an interval can be trusted of."""
    return max(LEAST_STEPS, math.ceil(ENOUGH_MEMORIES * autocorrelation_time(steps)))


def longer(record: Record, measured: Window, factor: float) -> str:
    """The flag that lets a run go on for `factor` times the time of its window, if that is any use."""
    allowed = record.spec.max_seconds or 0.0
    if factor > MOST_PATIENCE:
        return "measure when the machine is quiet: more time alone (--max-seconds) hardly helps"
    return f"--max-seconds {two_digits(max(2 * allowed, allowed + factor * measured.whole_seconds))}"


def two_digits(value: float) -> int:
    """`value` rounded up to two significant digits, at least 1."""
    scale: int = 10 ** max(0, math.floor(math.log10(max(1.0, value))) - 1)
    return math.ceil(value / scale) * scale
