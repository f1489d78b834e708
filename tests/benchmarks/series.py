"""Rows of step times whose median and memory are known: what a simulated run is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import signal, stats

Series = npt.NDArray[np.float64]
Random = np.random.Generator

PERIODS = (3, 8, 20, 50)
SHARE_SLOW = 0.3
TAIL_INDEX = 1.1
"""Of Pareto's law: the mean exists, the variance does not."""
WARM_UP_SIZES = (0.2, 5.0)
STALLS = frozenset({"stalls", "periodic stalls"})
TWO_SPEEDS = frozenset({"two speeds", "stalls"})


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Stationary step times. `draw(random, steps, spread)` gives a row of median 1, `spread` being the deviation of the
    noise in it; `memory` is the integrated autocorrelation time of its ranks, in steps; `really` is what may rightly be
    said against it."""

    name: str
    memory: float
    draw: Callable[[Random, int, float], Series]
    really: frozenset[str] = frozenset()

    def steps(self, memories: float) -> int:
        """How many are that many autocorrelation times."""
        return math.ceil(memories * self.memory)


def correlated(random: Random, steps: int, correlation: float) -> Series:
    """Standard normal with that lag-1 correlation, in equilibrium from the first on (AR(1))."""
    noise = random.normal(size=steps)
    noise[1:] *= math.sqrt(1 - correlation**2)
    filtered: Series = signal.lfilter([1.0], [1.0, -correlation], noise)
    return filtered


def memory_of_ranks(correlation: float) -> float:
    """Of `correlated`, and of every monotone function of it: Spearman's correlation is 6/pi asin(r/2)."""
    lags = np.arange(1, 2000)
    return float(1 + 2 * np.sum(6 / math.pi * np.arcsin(correlation**lags / 2)))


def normal(correlation: float, random: Random, steps: int, spread: float) -> Series:
    return 1 + spread * correlated(random, steps, correlation)


def heavy(correlation: float, random: Random, steps: int, spread: float) -> Series:
    """Pareto's law above its smallest value."""
    above = stats.norm.sf(correlated(random, steps, correlation))
    return 1 + spread * (above ** (-1 / TAIL_INDEX) - 2 ** (1 / TAIL_INDEX))


def bimodal(stay: float, random: Random, steps: int, spread: float) -> Series:
    """Two speeds, six times the noise of each apart; which of them is drawn anew with probability 1 - `stay`."""
    drawn = random.random(steps) >= stay
    drawn[0] = True
    since = np.maximum.accumulate(np.where(drawn, np.arange(steps), 0))
    slow = (random.random(steps) < SHARE_SLOW)[since]
    in_mode = stats.norm.ppf(0.5 / (1 - SHARE_SLOW))
    return 1 + spread * (random.normal(size=steps) - in_mode + 6 * slow)


def memory_of_two(stay: float) -> float:
    """Of `bimodal`: what part of the variance of ranks lies between the modes, and how long these last."""
    slow, fast = SHARE_SLOW, 1 - SHARE_SLOW
    between, within = slow * fast / 4, (slow**3 + fast**3) / 12
    return 1 + between / (between + within) * 2 * stay / (1 - stay)


def stalling(random: Random, steps: int, spread: float) -> Series:
    """Every so many steps one takes half as long again and more."""
    period = int(random.choice(PERIODS))
    stalled = (np.arange(steps) + random.integers(period)) % period == 0
    between = stats.norm.ppf(0.5 / (1 - 1 / period))
    return 1 + spread * (random.normal(size=steps) - between) + (0.5 + 5 * spread) * stalled


STATIONARY = (
    Scenario(name="white noise", memory=1.0, draw=partial(normal, 0.0)),
    *(Scenario(name=f"correlation {r}", memory=memory_of_ranks(r), draw=partial(normal, r)) for r in (0.5, 0.8, 0.95)),
    Scenario(name="heavy tail", memory=1.0, draw=partial(heavy, 0.0), really=STALLS),
    Scenario(name="heavy tail, correlation 0.8", memory=memory_of_ranks(0.8), draw=partial(heavy, 0.8), really=STALLS),
    Scenario(name="two speeds", memory=1.0, draw=partial(bimodal, 0.0), really=TWO_SPEEDS),
    Scenario(name="two speeds in turns", memory=memory_of_two(0.8), draw=partial(bimodal, 0.8), really=TWO_SPEEDS),
    Scenario(name="periodic stalls", memory=1.0, draw=stalling, really=STALLS | TWO_SPEEDS),
)


def warm_up(shape: str, longest: float, random: Random, steps: int) -> Series:
    """What is added to each step's time of 1: of a random length up to `longest` steps, and a random size."""
    length = math.exp(random.uniform(0, math.log(longest)))
    size = math.exp(random.uniform(*np.log(WARM_UP_SIZES)))
    at = np.arange(steps)
    shapes = {
        "decay": size * np.exp(-3 * at / length),
        "ramp": size * np.clip(1 - at / length, 0, None),
        "faster at first": -0.4 * np.exp(-3 * at / length),
        "plateau": size * (at < length),
    }
    return shapes[shape]
