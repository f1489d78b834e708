"""Peak memory of a run: of its fullest rank."""

from __future__ import annotations

from scalebench.records.record import Record

KINDS = (
    "allocated_peak",
    "reserved_peak",
    "tensor_peak",
    "resident_peak",
    "parameters",
    "gradients",
    "optimizer_state",
)
"""Fields of MemoryFacts that are reported."""


def largest(record: Record, kind: str) -> int | None:
    """The fullest rank's `kind` (a field of MemoryFacts) in bytes; None when a rank does not say."""
    values = [getattr(rank.memory, kind) for rank in record.ranks]
    return max(values) if values and None not in values else None


def peak(record: Record) -> int | None:
    """The peak that precisions and strategies are compared by: of the CUDA allocator, or of tensors on a CPU."""
    return largest(record, "allocated_peak" if record.spec.device == "cuda" else "tensor_peak")
