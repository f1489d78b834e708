"""Timing one short operation on all ranks at the same time, often enough to say how sure its time is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist

from scalebench.records.probe import TIME_UP

REPEATS = 7
GROWTH = 4
MOST_ITERATIONS = 4096
LONGEST_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Repeats an operation on every rank of the default process group at once; the ranks agree how often, and when time
    is up.

    Attributes:
        device: what the operation works on; its queue is drained before each reading of the clock.
        deadline_ns: CLOCK_MONOTONIC, which the ranks of a host share, after which nothing more should begin.
    """

    device: torch.device
    deadline_ns: int = field(default_factory=lambda: time.monotonic_ns() + 10**12)

    def time(self, operation: Callable[[], object], seconds: float, repeats: int = REPEATS) -> list[float]:
        """Seconds of one `operation` in each of `repeats`, shape (repeats,). Collective.

        Each repeat begins on all ranks at once and holds as many operations in a row as fill `seconds`, one at least.
        """
        count = self.iterations(operation, seconds)
        return [self._elapsed(operation, count) / count for _ in range(repeats)]

    def iterations(self, operation: Callable[[], object], seconds: float) -> int:
        """How many operations fill `seconds` on the slowest rank. Collective.

        Found by trying more and more of them, so that the first ones warm up and one lucky one misleads nobody.
        """
        self._elapsed(operation, 1)
        count, elapsed = 1, self.agreed(self._elapsed(operation, 1))
        while elapsed < seconds / GROWTH and count < MOST_ITERATIONS:
            count *= GROWTH
            elapsed = self.agreed(self._elapsed(operation, count))
        return max(1, min(MOST_ITERATIONS, round(count * seconds / max(elapsed, 1e-9))))

    def reason_to_stop(self, expected_seconds: float = 0.0) -> str | None:
        """Why an operation that takes about `expected_seconds` should not begin, or None. Collective."""
        if self.agreed(expected_seconds) > LONGEST_SECONDS:
            return f"one could take longer than {LONGEST_SECONDS} s"
        return TIME_UP if self.agreed(time.monotonic_ns() - self.deadline_ns) > 0 else None

    def part(self, share: float) -> Repeats:
        """The same with only a `share` of the time that is left."""
        now = time.monotonic_ns()
        return replace(self, deadline_ns=now + round(share * (self.deadline_ns - now)))

    def agreed(self, value: float) -> float:
        """The largest `value` of any rank. Collective; over the CPU, so that no device has to have come so far."""
        if not dist.is_initialized():
            return value
        largest = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return float(largest)

    def _elapsed(self, operation: Callable[[], object], count: int) -> float:
        self._drain()
        self.agreed(0.0)  # all ranks begin together
        started = time.perf_counter()
        for _ in range(count):
            operation()
        self._drain()
        return time.perf_counter() - started

    def _drain(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
