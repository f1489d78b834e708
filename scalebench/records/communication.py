"""What a rank exchanged with the others in one step, observed off the clock."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from scalebench.records.facts import Facts


class CollectiveFacts(Facts):
    """The collectives of one kind, over groups of so many ranks and in one dtype.

    Attributes:
        kind: all_reduce, all_gather, reduce_scatter, broadcast, reduce, all_to_all, ...
        payload_bytes: of all of them together: what goes in or comes out on this rank, the larger of the two.
        seconds: time in which at least one of them was under way, waiting for the last rank included; None if unknown.
    """

    kind: str
    ranks: int
    dtype: str
    count: int
    payload_bytes: int
    seconds: float | None = None


class CommunicationFacts(Facts):
    """The collectives of one step that carry gradients, parameters or buffers, as torch issues them.

    Attributes:
        level: where they were counted: `c10d`, torch's own operators, before a backend translates them.
        backend: what carried them: gloo, nccl.
        control_count: further ones that carry only flags and norms.
        step_seconds: duration of the profiled step, in which the times were taken.
        total_seconds: time in which any collective was under way.
        exposed_seconds: the part of it in which nothing was computed: on a GPU no kernel ran on another stream; on a
            CPU no operator ran, so that the time in which Python works between two operators counts as exposed too.
        unknown_because: why times are missing.
    """

    level: Literal["c10d"] = "c10d"
    backend: str
    collectives: list[CollectiveFacts] = Field(default_factory=list)
    control_count: int = 0
    step_seconds: float | None = None
    total_seconds: float | None = None
    exposed_seconds: float | None = None
    unknown_because: str | None = None
