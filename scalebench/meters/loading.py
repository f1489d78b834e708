"""The rate at which the run's own loader, left alone, hands out batches with so many workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from scalebench.records.loading import LoaderRate
from scalebench.strategies.base import Batch

Batches = Iterator[Sequence[Batch]]

WORKERS = (0, 1, 2, 4)
SECONDS = 0.1
"""How long each number of workers is watched once its first fetch has come, and at least."""
MOST_SECONDS = 3.0
"""How long at most, workers' start included."""


def measure_loader_rates(
    loader: Callable[[int], Batches], steps_per_fetch: int, counts: Sequence[int]
) -> list[LoaderRate]:
    """The rate of `loader(num_workers)` for each of `counts`. Off the clock; every rank does it at the same time.

    What goes wrong with a number of workers, such as a lack of shared memory, leaves its rate unknown: the steps that
    were timed before are not lost for it.

    Args:
        steps_per_fetch: steps whose batches come at once, so that whole fetches are counted.
    """
    rates = []
    for count in counts:
        with contextlib.suppress(Exception):
            rates.append(loader_rate(loader(count), count, steps_per_fetch))
    return rates


def loader_rate(batches: Batches, num_workers: int, steps_per_fetch: int) -> LoaderRate:
    """Whole fetches over time, once the workers run and what they had fetched ahead is used up.

    Workers finish together, so the time spans a multiple of their number of fetches. A loader so slow that this takes
    too long is judged by what it gave by then.
    """
    ends = [time.monotonic_ns()]
    ahead, together = 2 * num_workers, max(1, num_workers)  # as DataLoader's prefetch_factor has it
    while not _enough(ends, ahead, together):
        for _ in range(steps_per_fetch):
            next(batches)
        ends.append(time.monotonic_ns())
    first = min(1 + ahead, len(ends) - 2)
    fetches = len(ends) - 1 - first
    return LoaderRate(num_workers=num_workers, steps=fetches * steps_per_fetch, seconds=(ends[-1] - ends[first]) * 1e-9)


def _enough(ends: Sequence[int], ahead: int, together: int) -> bool:
    counted = len(ends) - 2 - ahead
    if len(ends) > 1 and ends[-1] - ends[0] > MOST_SECONDS * 1e9:
        return True
    return counted > 0 and counted % together == 0 and ends[-1] - ends[1] > SECONDS * 1e9
