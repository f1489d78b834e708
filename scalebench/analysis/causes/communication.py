"""Ranks that wait for what they exchange."""

from __future__ import annotations

from scalebench.analysis.stragglers import spread
from scalebench.records.communication import CommunicationFacts
from scalebench.records.probe import Probe

from .judging import Judgement, Limit, Run, Unknown, milliseconds


def latency(run: Run) -> Judgement:
    """Collectives so small that they take as long as empty ones: there is too little work for so many ranks."""
    facts, exposed, spec = last_to_come(run), exposed_seconds(run), run.record.spec
    if facts is None or exposed is None:
        return None  # why is told by `exposed_communication`
    if run.probe is None:
        ranks = f"--gpus {spec.world_size}"
        return Unknown(cause="latency", reason=f"no probe of this machine on as many ranks (scalebench probe {ranks})")
    return Limit(
        cause="latency",
        seconds=exposed * latency_share(facts, run.probe),
        doing="is latency of collectives: the model is too small for so many ranks",
        evidence=f"{sum(c.count for c in facts.collectives)} collectives in a step, as long as if they were empty",
        remedy=f"a larger --micro-batch or --size, or fewer --gpus than {spec.world_size}",
    )


def latency_share(facts: CommunicationFacts, probe: Probe) -> float:
    """The part of a step's collectives that empty ones would take too."""
    latencies = {fit.name: fit.latency_seconds for fit in probe.fits}
    empty = sum(found.count * latencies.get(found.kind, 0.0) for found in facts.collectives)
    return min(1.0, empty / facts.total_seconds) if facts.total_seconds else 0.0


def exposed_communication(run: Run) -> Judgement:
    """Of the rank that comes last, which waits for nobody: so this is the network's time."""
    if len(run.ranks) < 2:
        return None
    facts, exposed = last_to_come(run), exposed_seconds(run)
    if facts is None or exposed is None:
        return Unknown(cause="communication", reason=why_untimed(run))
    return Limit(
        cause="communication",
        seconds=exposed * (1 - (latency_share(facts, run.probe) if run.probe else 0.0)),
        doing="waits for communication",
        evidence=f"{timed_collectives(facts)}; for {milliseconds(exposed)} nothing is computed meanwhile",
        remedy=less_often(run),
    )


def exposed_seconds(run: Run) -> float | None:
    """Of a step in which the rank that comes last waits for communication: as profiled, and never longer than it was
    seen to wait for anything in the window. None when not known."""
    facts, idle = last_to_come(run), idle_seconds(run)
    if facts is None or facts.exposed_seconds is None:
        return None
    return min(facts.exposed_seconds, run.step_seconds if idle is None else idle)


def idle_seconds(run: Run) -> float | None:
    """Of a step in which the busiest rank's main thread neither ran nor wanted to, on a CPU."""
    work = spread(run.record)
    if run.record.spec.device != "cpu" or work is None:
        return None
    return max(0.0, run.window.whole_seconds / run.window.whole_steps - max(work.seconds))


def timed_collectives(facts: CommunicationFacts) -> str:
    """`collectives take 20.6 ms of a step, most of it 5 × all_gather of 1.67 MB at 178 MB/s`."""
    told = f"collectives take {milliseconds(facts.total_seconds or 0.0)} of a step"
    timed = [(found.seconds, found) for found in facts.collectives if found.seconds]
    if timed:
        seconds, most = max(timed, key=lambda pair: pair[0])
        rate = most.payload_bytes / seconds / 1e6
        told += f", most of it {most.count} × {most.kind}, {most.payload_bytes / 1e6:.3g} MB at {rate:.3g} MB/s"
    return told


def last_to_come(run: Run) -> CommunicationFacts | None:
    """The communication of the rank that waited least; None unless it is known of all."""
    known = [r.communication for r in run.ranks if r.communication and r.communication.exposed_seconds is not None]
    if len(known) < len(run.ranks):
        return None
    return min(known, key=lambda facts: facts.exposed_seconds or 0.0, default=None)


def why_untimed(run: Run) -> str:
    """Why the time of collectives is not known."""
    reasons = [rank.communication.unknown_because for rank in run.ranks if rank.communication]
    return next((reason for reason in reasons if reason), "nobody looked at the collectives")


def less_often(run: Run) -> str:
    """What lets ranks exchange less for the same samples."""
    spec = run.record.spec
    fewer = f"--micro-batch {2 * spec.micro_batch}"
    if spec.grad_sync == "last":
        fewer = f"--accumulation {2 * spec.accumulation} or {fewer}"
    return f"{fewer} (fewer exchanges per sample), or a faster link (scalebench probe)"
