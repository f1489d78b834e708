"""The one training loop: every strategy, and every command that trains, goes through it.

Nothing but the step, the next batch and one mark per step happens inside. Warm-up and window are one uninterrupted
row of
steps: the window is an annotation, so that nothing drains between the two and nothing can fall between steps.
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
    at: dict[int, Callable[[], None]] | None = None,
) -> Timeline:
    """Run `count` optimizer steps and return their timeline.

    Args:
        ready: called last before the clock starts: the barrier that gives all ranks a common start.
        at: callables to run once, just before the mark that ends step number `key - 1`, that is between step `key - 1`
            and step `key`; their (microseconds of) host time count to step `key - 1`.
    """
    timeline = Timeline()
    hooks = at or {}
    with collection_paused():
        ready()
        timeline.start_ns = clock.start()
        for index in range(1, count + 1):
            asked = time.monotonic_ns()
            micro_batches = next(batches)
            timeline.data_wait_ns.append(time.monotonic_ns() - asked)
            timeline.losses.append(step(micro_batches))
            norm = step.grad_norm()
            if norm is not None:
                timeline.grad_norms.append(norm)
            if index in hooks:
                hooks[index]()
            clock.mark()
        timeline.step_end_ns = clock.read_ns()
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
