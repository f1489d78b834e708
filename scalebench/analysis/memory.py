"""Memory of a run, of its fullest rank: peaks, what they were filled with, and what the formulas say of that."""

from __future__ import annotations

from scalebench.records.memory import MemorySplit
from scalebench.records.record import Record
from scalebench.theory.memory import Memory, memory

KINDS = (
    "allocated_peak",
    "reserved_peak",
    "tensor_peak",
    "resident_peak",
    "parameters",
    "gradients",
    "optimizer_state",
)
"""Fields of MemoryFacts that are reported in bytes."""
CATEGORIES = tuple(MemorySplit.model_fields)
"""What a peak may be filled with."""


def largest(record: Record, kind: str) -> int | None:
    """The fullest rank's `kind` (a field of MemoryFacts); None when a rank does not say."""
    values = [getattr(rank.memory, kind) for rank in record.ranks]
    return max(values) if values and None not in values else None


def peak(record: Record) -> int | None:
    """The peak that precisions and strategies are compared by: of the CUDA allocator, or of tensors on a CPU."""
    return largest(record, "allocated_peak" if record.spec.device == "cuda" else "tensor_peak")


def split(record: Record) -> MemorySplit | None:
    """What the tensors of the fullest rank were at their peak; None when not known of some rank."""
    known = [rank.memory for rank in record.ranks if rank.memory.split is not None]
    if not known or len(known) < len(record.ranks):
        return None
    return max(known, key=lambda facts: facts.tensor_peak or 0).split


def expected(record: Record) -> Memory | None:
    """What the formulas say of one rank; None for a strategy whose doings are not known.

    Of compiled regions nobody knows what they keep: activations and the peak are None then.
    """
    theory, spec = record.theory, record.spec
    if theory is None or theory.scheme is None:
        return None
    return memory(theory.model, theory.scheme, None if spec.compile else theory.saved, spec.micro_batch)


def fragmentation(record: Record) -> float | None:
    """Share of what the CUDA allocator held at most that was never in use at once, of the rank with the largest."""
    shares = [
        1 - rank.memory.allocated_peak / rank.memory.reserved_peak
        for rank in record.ranks
        if rank.memory.allocated_peak is not None and rank.memory.reserved_peak
    ]
    return max(shares) if shares and len(shares) == len(record.ranks) else None
