"""Forward, backward, optimizer and data of some steps, told apart in the same way for every backend.

Marks are set where the wrapped module's forward begins and ends and where the backward pass ends. The backward pass is
known by the call that starts it: the backend's engine's, where the module is one, else autograd's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch

from scalebench.meters.clock import Clock, clock_for
from scalebench.records.phases import PhaseFacts
from scalebench.strategies.base import Batch, TrainStep

PHASE_STEPS = 5

Phase = Literal["data", "forward", "backward", "optimizer"]


def measure_phases(
    step: TrainStep, batches: Iterator[Sequence[Batch]], device: torch.device, ready: Callable[[], None]
) -> PhaseFacts | None:
    """Run `PHASE_STEPS` optimizer steps with marks inside. Collective, off the clock; it trains the model on.

    `ready` gives all ranks a common start. None when a phase could not be told, as with a backend whose backward pass
    goes by neither way.
    """
    marks = Marks(clock_for(device, run_ahead=None))
    with marks.inside(step):
        ready()
        start_ns = marks.clock.start()
        for _ in range(PHASE_STEPS):
            micro_batches = next(batches)
            marks.end("data")
            step(micro_batches)
            marks.end("optimizer", last=True)
    return marks.facts(start_ns)


class Marks:
    """A mark on `clock` whenever a phase ends, and which one it was."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._ended: list[tuple[Phase, bool]] = []

    def end(self, phase: Phase, *, last: bool = False) -> None:
        """What ran since the previous mark was `phase`; `last` ends the step."""
        self.clock.mark()
        self._ended.append((phase, last))

    @contextlib.contextmanager
    def inside(self, step: TrainStep) -> Iterator[None]:
        """While entered, the steps of `step` set marks where their forward and backward passes begin and end."""
        module = step.module
        handles = [
            module.register_forward_pre_hook(lambda *_: self.end("optimizer"), prepend=True),
            module.register_forward_hook(lambda *_: self.end("forward")),
        ]
        owner = module if hasattr(module, "backward") else torch.autograd
        try:
            with self._after_each(owner, "backward", "backward"):
                yield
        finally:
            for handle in handles:
                handle.remove()

    @contextlib.contextmanager
    def _after_each(self, owner: Any, name: str, phase: Phase) -> Iterator[None]:
        """While entered, each call of `owner.name` ends `phase`."""
        original, own = getattr(owner, name), name in vars(owner)

        def marked(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self.end(phase)
            return result

        setattr(owner, name, marked)
        try:
            yield
        finally:
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)  # it was its class's

    def facts(self, start_ns: int) -> PhaseFacts | None:
        """The durations by step and phase."""
        steps: list[dict[Phase, int]] = []
        starts, before, first = [], start_ns, True
        for (phase, last), now in zip(self._ended, self.clock.read_ns(), strict=True):
            if first:
                starts.append(before)
                steps.append(dict.fromkeys(("data", "forward", "backward", "optimizer"), 0))
            steps[-1][phase] += now - before
            before, first = now, last
        seen = {phase for phase, _ in self._ended}
        if seen != {"data", "forward", "backward", "optimizer"}:
            return None
        return PhaseFacts(start_ns=starts, **{f"{phase}_ns": [each[phase] for each in steps] for phase in seen})
