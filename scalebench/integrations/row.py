"""A row of steps that somebody else's loop makes: the same clock and marks as the harness's own loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from scalebench.harness.loop import Timeline, begin, collection_paused, end, kept, numbers
from scalebench.meters.clock import clock_for

Scalar = Tensor | float | None


class OpenRow:
    """Up to `steps` steps without a pause, from now on; `ready` is called last before the clock starts.

    Automatic garbage collection is off until it is closed.
    """

    def __init__(self, steps: int, device: torch.device, ready: Callable[[], None]) -> None:
        self.count = 0
        self._steps = steps
        self._losses, self._norms = list[Tensor | float](), list[Tensor | float]()
        self._timeline, self._clock = Timeline(), clock_for(device)
        self._paused = contextlib.ExitStack()
        self._paused.enter_context(collection_paused())
        begin(self._timeline, self._clock, ready)

    @property
    def full(self) -> bool:
        return self.count >= self._steps

    def step_ended(self, loss: Scalar, grad_norm: Scalar) -> None:
        """Mark the end of a step, and keep what is known of it."""
        for values, value in ((self._losses, loss), (self._norms, grad_norm)):
            if value is not None:
                values.append(kept(value.detach()) if isinstance(value, Tensor) else float(value))
        self._clock.mark()
        self.count += 1

    def close(self) -> Timeline:
        """The timeline of its steps; values that were not given for each of them are left out."""
        if self.count:
            end(self._timeline, self._clock)
        self._paused.close()
        losses, norms = numbers(self._losses), numbers(self._norms)
        self._timeline.losses = losses if len(losses) == self.count else []
        self._timeline.grad_norms = norms if len(norms) == self.count else []
        return self._timeline
