"""What a step exchanged between ranks, how fast, how much of it was hidden; and what the formula says of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np

from scalebench.records.communication import CollectiveFacts, CommunicationFacts
from scalebench.records.probe import Probe
from scalebench.records.record import Record
from scalebench.theory.communication import Collectives, Kind, bus_share, payload_bytes, traffic, wire_bytes
from scalebench.theory.scheme import Backend

from .probe import probe_for

FORMULAS: frozenset[str] = frozenset(get_args(Kind))
"""The kinds of collectives whose bytes on the wire are known."""


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Of one rank and step: what torch hands over, and what is sent on the wire (the mean over ranks)."""

    payload: int
    wire: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """All collectives of one kind, group size and dtype in a step.

    Attributes:
        seconds: of the rank on which they took least: the last to come waits for nobody.
        algorithm_bandwidth, bus_bandwidth: bytes per second, as nccl-tests defines them.
        of_probe: what they would have taken by the line through a probe's times, over `seconds`; None without a probe
            of as many ranks.
    """

    kind: str
    ranks: int
    dtype: str
    count: int
    payload_bytes: int
    seconds: float | None
    algorithm_bandwidth: float | None
    bus_bandwidth: float | None
    of_probe: float | None


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """Seconds of a step, means over ranks: collectives under way, and the part of it in which nothing was computed."""

    total: float
    exposed: float
    step: float

    @property
    def overlapped(self) -> float:
        """Seconds in which something was computed meanwhile."""
        return self.total - self.exposed


def exchanged(record: Record) -> Bytes | None:
    """What the fullest rank was seen to exchange; None where nobody looked or a kind's way on the wire is not known."""
    sums = [_bytes(facts) for facts in _facts(record)]
    known = [one for one in sums if one is not None]
    return max(known, key=lambda one: one.payload) if known and len(known) == len(sums) else None


def expected(record: Record) -> Bytes | None:
    """What the formula says of that; None for a strategy whose doings are not known."""
    theory = record.theory
    if theory is None or theory.scheme is None:
        return None
    calls = traffic(theory.model, theory.scheme)
    return Bytes(payload=payload_bytes(calls), wire=wire_bytes(calls, theory.scheme.backend))


def speeds(record: Record, probes: Sequence[Probe] = ()) -> list[Speed]:
    """Every kind of collective, with its time and bandwidths; empty where nobody looked."""
    ranks = [{(c.kind, c.ranks, c.dtype): c for c in facts.collectives} for facts in _facts(record)]
    probe = probe_for(record, probes)
    return [_speed([rank[key] for rank in ranks if key in rank], probe) for key in (ranks[0] if ranks else {})]


def exposure(record: Record) -> Exposure | None:
    """How long communication was under way and how much of that stood in the way; None when not known of some rank."""
    known = [
        (facts.total_seconds, facts.exposed_seconds, facts.step_seconds)
        for facts in _facts(record)
        if facts.total_seconds is not None and facts.exposed_seconds is not None and facts.step_seconds is not None
    ]
    if not known or len(known) < len(record.ranks):
        return None
    total, exposed, step = (float(mean) for mean in np.mean(known, axis=0))
    return Exposure(total=total, exposed=exposed, step=step)


def _facts(record: Record) -> list[CommunicationFacts]:
    """Of all ranks, or of none."""
    found = [rank.communication for rank in record.ranks if rank.communication]
    return found if len(found) == len(record.ranks) else []


def _bytes(facts: CommunicationFacts) -> Bytes | None:
    if not {c.kind for c in facts.collectives} <= FORMULAS:
        return None
    backend: Backend = "nccl" if facts.backend == "nccl" else "gloo"
    calls = _calls(facts.collectives)
    return Bytes(payload=payload_bytes(calls), wire=wire_bytes(calls, backend))


def _calls(collectives: Iterable[CollectiveFacts]) -> list[Collectives]:
    return [
        Collectives(kind=cast(Kind, c.kind), ranks=c.ranks, count=c.count, payload_bytes=c.payload_bytes)
        for c in collectives
    ]


def _speed(ranks: list[CollectiveFacts], probe: Probe | None) -> Speed:
    first = ranks[0]
    expected = _by_probe(first, probe)
    times = [facts.seconds for facts in ranks if facts.seconds]
    seconds = min(times) if len(times) == len(ranks) else None
    rate = first.payload_bytes / seconds if seconds else None
    share = bus_share(cast(Kind, first.kind), first.ranks) if first.kind in FORMULAS else None
    return Speed(
        kind=first.kind,
        ranks=first.ranks,
        dtype=first.dtype,
        count=first.count,
        payload_bytes=first.payload_bytes,
        seconds=seconds,
        algorithm_bandwidth=rate,
        bus_bandwidth=None if rate is None or share is None else rate * share,
        of_probe=None if expected is None or seconds is None else expected / seconds,
    )


def _by_probe(facts: CollectiveFacts, probe: Probe | None) -> float | None:
    """Seconds of these collectives one after the other by the probe's line, each with its latency."""
    if probe is None or probe.spec.world_size != facts.ranks:
        return None
    fit = next((fit for fit in probe.fits if fit.name == facts.kind), None)
    if fit is None or fit.bytes_per_second is None:
        return None
    return facts.count * fit.latency_seconds + facts.payload_bytes / fit.bytes_per_second
