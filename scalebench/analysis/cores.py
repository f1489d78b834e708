"""What CPU ranks were denied: cores that a quota withheld, and waits for a core."""

from __future__ import annotations

from collections import Counter

from scalebench.records.record import Record


def withheld(record: Record) -> list[float] | None:
    """Seconds of the window by rank: what the quota of a control group held back on a host, evenly among its ranks.

    None where some rank's group does not tell.
    """
    sharing = Counter(rank.host for rank in record.ranks)
    held = [(rank.throttled_seconds, sharing[rank.host]) for rank in record.ranks]
    known = [seconds / ranks for seconds, ranks in held if seconds is not None]
    return known if known and len(known) == len(held) else None


def core_waits(record: Record) -> list[float] | None:
    """Seconds of the window, by rank, for which it could have run but had no core, though no quota withheld one.

    None where the system does not account for some rank.
    """
    held = withheld(record) or [0.0] * len(record.ranks)
    waits = [(rank.cpu_wait_seconds, seconds) for rank, seconds in zip(record.ranks, held, strict=True)]
    known = [max(0.0, wait - seconds) for wait, seconds in waits if wait is not None]
    return known if known and len(known) == len(waits) else None
