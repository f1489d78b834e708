"""The one training loop: every strategy, and every command that trains, goes through it.

Nothing but the step, the next batch and one mark per step happens inside, so that nothing can fall between steps.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from scalebench.meters.clock import Clock
from scalebench.strategies.base import Batch, TrainStep


@dataclass(kw_only=True)
class Timeline:
    """What one rank saw of a row of steps; the tensors stay on the device until the row is over."""

    start_ns: int = 0
    end_ns: int = 0
    """When the host, having waited for the device, knew that the last step had ended."""
    step_end_ns: list[int] = field(default_factory=list)
    data_wait_ns: list[int] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    grad_norms: list[Tensor] = field(default_factory=list)


def run_steps(
    step: TrainStep,
    batches: Iterator[Sequence[Batch]],
    count: int,
    clock: Clock,
    *,
    ready: Callable[[], None] = lambda: None,
) -> Timeline:
    """Run `count` optimizer steps and return their timeline.

    `ready` is called last before the clock starts: the barrier that gives all ranks a common start.
    """
    timeline = Timeline()
    with collection_paused():
        ready()
        timeline.start_ns = clock.start()
        for _ in range(count):
            asked = time.monotonic_ns()
            micro_batches = next(batches)
            timeline.data_wait_ns.append(time.monotonic_ns() - asked)
            timeline.losses.append(step(micro_batches))
            norm = step.grad_norm()
            if norm is not None:
                timeline.grad_norms.append(norm)
            clock.mark()
        timeline.step_end_ns = clock.read_ns()
        timeline.end_ns = time.monotonic_ns()
    return timeline


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """No automatic garbage collection inside, for every strategy alike: a collection is neither the model's nor the
    backend's."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
