"""What the machine that a record was made on can do, from the probes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scalebench.records.probe import TIME_UP, Collective, Number, Probe
from scalebench.records.record import Record
from scalebench.stats.spread import Spread, of_slowest

from .cells import machine

SOFTWARE_WITHOUT_EFFECT = {"deepspeed", "python"}
"""What may differ between a probe and the runs set against it: a probe is torch, its libraries and the hardware."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """A collective of one payload: seconds of the slowest rank, and payload bytes over them."""

    payload_bytes: int
    seconds: Spread
    bytes_per_second: Spread | None


def probe_for(record: Record, probes: Iterable[Probe]) -> Probe | None:
    """The latest probe of the record's hardware and torch with as many ranks, threads and cores each; None without."""
    spec = record.spec
    wanted = (_machine(record), spec.device, spec.world_size, spec.threads_per_rank, spec.cores_per_rank)
    same = [probe for probe in probes if _place(probe) == wanted]
    return max(same, key=lambda probe: probe.started_at, default=None)


def by_machine(probes: Iterable[Probe]) -> list[list[Probe]]:
    """Of each placement on each machine the latest probe: a list per machine, by number of ranks."""
    found = {repr(_place(probe)): probe for probe in sorted(probes, key=lambda probe: probe.started_at)}
    machines: dict[str, list[Probe]] = {}
    for probe in sorted(found.values(), key=lambda probe: (probe.spec.world_size, probe.spec.threads_per_rank or 0)):
        machines.setdefault(repr(_machine(probe)), []).append(probe)
    return list(machines.values())


def number_of(record: Record) -> Number:
    """The number format in which the record's matrix products were asked for."""
    if record.spec.tf32:
        return "tf32"
    formats: dict[str, Number] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
    return formats[record.spec.precision.removesuffix("-true")]


def matmul_rate(probe: Probe, number: Number) -> Spread | None:
    """FLOPs per second of one rank while all ranks multiply, at the size that came out fastest; None without one.

    Formula: 2 n^3 / seconds of the slowest rank.
    """
    sustained = [facts for facts in probe.facts.matmul if facts.number == number and facts.sustained]
    return of_slowest(sustained[0].seconds).rate(2 * sustained[0].size ** 3) if sustained else None


def cut_short(probe: Probe, number: Number) -> bool:
    """Whether there was no time to try products of every size in that format."""
    return any(name.startswith(f"{number} ") and why == TIME_UP for name, why in probe.facts.left_out.items())


def matmul_sizes(probe: Probe) -> dict[Number, list[tuple[int, Spread]]]:
    """FLOPs per second of one rank over the rows of the matrices, by number format."""
    found: dict[Number, list[tuple[int, Spread]]] = {}
    for facts in probe.facts.matmul:
        if not facts.sustained:
            rate = of_slowest(facts.seconds).rate(2 * facts.size**3)
            found.setdefault(facts.number, []).append((facts.size, rate))
    return found


def memory_rate(probe: Probe, kernel: str) -> Spread | None:
    """Bytes per second that one rank moves while all ranks do, each array counted once per pass as in STREAM."""
    for facts in probe.facts.memory:
        if facts.kernel == kernel:
            return of_slowest(facts.seconds).rate(facts.moved_bytes)
    return None


def messages(probe: Probe, kind: Collective) -> list[Message]:
    """Every payload of one collective, ascending."""
    found = [
        Message(payload_bytes=size, seconds=seconds, bytes_per_second=seconds.rate(size) if size else None)
        for facts in probe.facts.collectives
        if facts.kind == kind
        for size, seconds in [(facts.payload_bytes, of_slowest(facts.seconds))]
    ]
    return sorted(found, key=lambda message: message.payload_bytes)


def copies(probe: Probe) -> dict[tuple[str, bool], Sequence[tuple[int, Spread]]]:
    """Bytes per second over payloads by direction and whether the host's memory was pinned."""
    found: dict[tuple[str, bool], list[tuple[int, Spread]]] = {}
    for facts in probe.facts.copies:
        rate = of_slowest(facts.seconds).rate(facts.payload_bytes)
        found.setdefault((facts.direction, facts.pinned), []).append((facts.payload_bytes, rate))
    return dict(found)


def _machine(made: Record | Probe) -> dict[str, object]:
    return {name: value for name, value in machine(made).items() if name not in SOFTWARE_WITHOUT_EFFECT}


def _place(probe: Probe) -> tuple[object, ...]:
    spec = probe.spec
    return _machine(probe), spec.device, spec.world_size, spec.threads_per_rank, spec.cores_per_rank
