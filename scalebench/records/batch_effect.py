"""What a step costs with batches of two sizes, so that what does not depend on the batch can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from scalebench.records.facts import Facts


class BatchEffect(Facts):
    """Some steps after the window, with the run's own micro-batches and with others in turn.

    Attributes:
        clock: what the durations are of: `cpu` the CPU time of the rank's main thread, which no neighbour lengthens;
            `cuda-event` the time from boundary to boundary on the GPU, collectives included.
        other_micro_batch: samples in each of the other micro-batches: half of the run's own; twice as many as one.
        own_ns, other_ns: duration of each step, in the order in which they ran.
        unknown_because: why there are none.
    """

    clock: Literal["cpu", "cuda-event"]
    other_micro_batch: int
    own_ns: list[int] = Field(default_factory=list)
    other_ns: list[int] = Field(default_factory=list)
    unknown_because: str | None = None
