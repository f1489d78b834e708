"""Where the time of an optimizer step goes on one rank."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from scalebench.records.facts import Facts


class PhaseFacts(Facts):
    """Durations in some steps in a row, run right after the window with a mark at each change of phase; per step, ns.

    The four add up to the step. On CUDA they are those of the stream that computes: communication counts to the phase
    that waits for it.

    Attributes:
        start_ns: when each step began, on the clock of the step boundaries.
        data_ns: waiting for the next batch, on the host.
        forward_ns: inside the wrapped module's forward, over the step's micro-batches.
        backward_ns: from the end of a forward to the end of the backward pass (of the engine's own backward, which
            scales and reduces too, where the backend is an engine).
        optimizer_ns: all the rest: clearing gradients, unscaling, clipping, updating, what a backend gathers or reduces
            there.
    """

    start_ns: list[int]
    data_ns: list[int]
    forward_ns: list[int]
    backward_ns: list[int]
    optimizer_ns: list[int]

    @model_validator(mode="after")
    def _same_steps(self) -> Self:
        lists = (self.start_ns, self.data_ns, self.forward_ns, self.backward_ns, self.optimizer_ns)
        if len({len(durations) for durations in lists}) > 1:
            raise ValueError("the phases are not of the same steps")
        return self
