"""The one training loop: every strategy, and every command that trains, goes through it.

Nothing but the step, the next batch and one mark per step happens inside, so that nothing can fall between steps.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scalebench.meters.clock import Clock, wall_ns
from scalebench.strategies.base import Batch, TrainStep


@dataclass(kw_only=True)
class Timeline:
    """What one rank saw of a row of steps."""

    start_ns: int = 0
    end_ns: int = 0
    """When the host, having waited for the device, knew that the last step had ended."""
    wall_start_ns: int = 0
    wall_end_ns: int = 0
    """The same two moments on another clock, which knows nothing of marks."""
    step_end_ns: list[int] = field(default_factory=list)
    data_wait_ns: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)


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
    losses, norms = list[Tensor | float](), list[Tensor | float]()
    with collection_paused():
        begin(timeline, clock, ready)
        for _ in range(count):
            asked = time.monotonic_ns()
            micro_batches = next(batches)
            timeline.data_wait_ns.append(time.monotonic_ns() - asked)
            losses.append(kept(step(micro_batches)))
            norm = step.grad_norm()
            if norm is not None:
                norms.append(kept(norm))
            clock.mark()
        end(timeline, clock)
    timeline.losses, timeline.grad_norms = numbers(losses), numbers(norms)
    return timeline


def begin(timeline: Timeline, clock: Clock, ready: Callable[[], None]) -> None:
    """Start the clock of `timeline` right after `ready`."""
    ready()
    timeline.wall_start_ns = wall_ns()
    timeline.start_ns = clock.start()


def end(timeline: Timeline, clock: Clock) -> None:
    """Let `timeline` end with the last mark. Waits for the device."""
    clock.wait()
    timeline.wall_end_ns, timeline.end_ns = wall_ns(), time.monotonic_ns()
    timeline.step_end_ns = clock.read_ns()


def kept(scalar: Tensor) -> Tensor | float:
    """On a CPU the number: a thousand small tensors among the large ones keep the allocator from using memory again.
    On a GPU the tensor: its number would have to be waited for."""
    return scalar.item() if scalar.device.type == "cpu" else scalar


def numbers(scalars: list[Tensor | float]) -> list[float]:
    """What was kept, as numbers; waits for the device once."""
    tensors = [scalar for scalar in scalars if isinstance(scalar, Tensor)]
    known = [scalar for scalar in scalars if not isinstance(scalar, Tensor)]
    return known + (torch.stack(tensors).tolist() if tensors else [])


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
