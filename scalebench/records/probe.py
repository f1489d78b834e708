"""Probe: the raw facts of what one machine can do with a number of ranks at once, whatever a model makes of it.

Every measurement is made on all ranks at the same time, since ranks share memory, caches, links and power. `seconds`
has shape (ranks, repeats): the time of one operation on that rank, a mean over as many in a row as fill a repeat.

Schema history:
    1: first.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from scalebench.records.facts import Facts
from scalebench.spec import ProbeSpec

Number = Literal["fp32", "tf32", "bf16", "fp16"]
"""The number formats of matrix products, by the names of their precisions."""
Collective = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce", "all_to_all", "ring", "barrier"
]
"""`ring`: each rank sends to the next and receives from the one before."""

Kernel = Literal["copy", "triad"]
Direction = Literal["to_device", "from_device"]

Seconds = list[list[float]]

TIME_UP = "time was up"
"""Why something was left out that the machine could have done."""


class MatmulFacts(Facts):
    """Products of two square matrices of `size` rows: 2 size^3 FLOPs each.

    `sustained` marks a second, longer measurement at the size that came out fastest: the reported rate, since the best
    of several short ones is best by luck too.
    """

    number: Number
    size: int
    sustained: bool = False
    seconds: Seconds


class MemoryPassFacts(Facts):
    """Passes over arrays in the device's memory, each `array_bytes` long: STREAM's copy (a = b) or triad (a = b + s c).

    `moved_bytes` counts each array once per pass, as STREAM does: 2 for copy, 3 for triad.
    """

    kernel: Kernel
    array_bytes: int
    moved_bytes: int
    seconds: Seconds


class CollectiveFacts(Facts):
    """One collective over all ranks. `payload_bytes` as nccl-tests counts: the larger of what a rank gives and gets."""

    kind: Collective
    payload_bytes: int
    seconds: Seconds


class CopyFacts(Facts):
    """Copies between the host's memory (`pinned`, that is page-locked, or not) and the device's."""

    direction: Direction
    pinned: bool
    payload_bytes: int
    seconds: Seconds


class LatencyFit(Facts):
    """Least squares fit of t(m) = latency + m / bandwidth to the median times of one operation over payloads m.

    See scalebench.stats.latency for the method. `name` is a collective's, or `to_device, pinned` for a copy.

    Attributes:
        bytes_per_second: None where time did not grow with the payload.
        rms_error, largest_error: relative differences between fitted and measured times, over the payloads.
    """

    name: str
    latency_seconds: float
    bytes_per_second: float | None
    rms_error: float
    largest_error: float


class ProbeFacts(Facts):
    """What was measured. `left_out` is why something is missing, by the name of the measurement."""

    matmul: list[MatmulFacts] = Field(default_factory=list)
    memory: list[MemoryPassFacts] = Field(default_factory=list)
    collectives: list[CollectiveFacts] = Field(default_factory=list)
    copies: list[CopyFacts] = Field(default_factory=list)
    left_out: dict[str, str] = Field(default_factory=dict)


class Probe(Facts):
    """One probe of one machine: identity is spec + session. `device_names` by rank; None where it is the CPU."""

    probe_schema: Literal[1] = 1
    spec: ProbeSpec
    session: str
    started_at: str
    wall_seconds: float
    device_names: list[str | None]
    facts: ProbeFacts
    fits: list[LatencyFit] = Field(default_factory=list)
    environment: dict[str, object] = Field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """`probe-2xcpu-1t.json`, unique within a session's folder."""
        threads = f"-{self.spec.threads_per_rank}t" if self.spec.threads_per_rank else ""
        return f"probe-{self.spec.world_size}x{self.spec.device}{threads}.json"
