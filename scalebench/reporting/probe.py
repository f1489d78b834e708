"""Tables of what the machine can do."""

from __future__ import annotations

from collections.abc import Sequence

from scalebench.analysis.probe import copies, matmul_rate, memory_rate, messages
from scalebench.records.probe import Collective, Number, Probe
from scalebench.stats.spread import Spread

from .table import RANK_WORDS, Row, Table, table
from .text import UNKNOWN, figure, known, percent, plural, size

NUMBERS: tuple[Number, ...] = ("fp32", "tf32", "bf16", "fp16")
GIGA, MICRO = 1e9, 1e-6

SPREAD_NOTE = "Median of {repeats} repeats [least – largest], each by its slowest rank, all ranks at work at once."
FIT_NOTE = (
    "Latency and bandwidth are the least squares line t = latency + payload / bandwidth through the median times, with "
    "errors relative to them; its error is their root mean square. Payload as nccl-tests counts it."
)


def probe_tables(probes: Sequence[Probe]) -> list[Table]:
    """Compute and memory, collectives, copies: of probes of one machine, those of which something is known."""
    found = [compute(probes), collectives(probes), host_copies(probes)]
    return [made for made in found if made is not None]


def compute(probes: Sequence[Probe]) -> Table | None:
    """Matrix products and memory bandwidth of one rank, for each number of ranks."""
    rows = [
        _place(probe)
        | {f"{number}, GFLOP/s": _spread(matmul_rate(probe, number)) for number in NUMBERS}
        | {f"memory {kernel}, GB/s": _spread(memory_rate(probe, kernel)) for kernel in ("copy", "triad")}
        for probe in probes
    ]
    repeats = max((len(facts.seconds[0]) for probe in probes for facts in probe.facts.matmul), default=0)
    notes = [SPREAD_NOTE.format(repeats=repeats), *_left_out(probes)]
    return table("Compute and memory of one rank", rows, notes)


def collectives(probes: Sequence[Probe]) -> Table | None:
    """Latency and bandwidth of each collective: as measured at the ends of the range, and as fitted over it."""
    rows = [
        _place(probe) | {"collective": kind.replace("_", "-")} | _ends(probe, kind) | _fit(probe, kind)
        for probe in probes
        for kind in dict.fromkeys(facts.kind for facts in probe.facts.collectives)
    ]
    return table("Collectives", rows, [FIT_NOTE])


def host_copies(probes: Sequence[Probe]) -> Table | None:
    """Copies between host and device at the largest payload, and as fitted."""
    rows = [
        _place(probe)
        | {"copy": direction.replace("_", " "), "host memory": memory, "GB/s": _spread(rates[-1][1])}
        | _fit(probe, f"{direction}, {memory}")
        for probe in probes
        for (direction, pinned), rates in copies(probe).items()
        for memory in ("pinned" if pinned else "pageable",)
    ]
    return table("Copies between host and device", rows, [FIT_NOTE])


def _place(probe: Probe) -> Row:
    spec = probe.spec
    threads = {"threads each": str(spec.threads_per_rank)} if spec.threads_per_rank else {}
    return {RANK_WORDS[0 if spec.device == "cuda" else 1]: str(spec.world_size)} | threads


def _ends(probe: Probe, kind: Collective) -> Row:
    """The least payload's time and the largest one's bandwidth."""
    found = messages(probe, kind)
    least, most = found[0], found[-1]
    row = {"least payload, µs": _spread(least.seconds, MICRO)}
    if most.bytes_per_second is None:
        return row
    return row | {"largest payload": size(most.payload_bytes), "there, GB/s": _spread(most.bytes_per_second)}


def _fit(probe: Probe, name: str) -> Row:
    fit = next((fit for fit in probe.fits if fit.name == name), None)
    if fit is None:
        return {}
    return {
        "latency, µs": figure(fit.latency_seconds / MICRO, 3),
        "bandwidth, GB/s": known(fit.bytes_per_second, lambda rate: figure(rate / GIGA, 3)),
        "error of the line": percent(fit.rms_error),
    }


def _left_out(probes: Sequence[Probe]) -> list[str]:
    """A sentence per probe and reason."""
    found: dict[tuple[int, str], list[str]] = {}
    for probe in probes:
        for name, reason in probe.facts.left_out.items():
            found.setdefault((probe.spec.world_size, reason), []).append(name)
    return [
        f"Left out at {plural(ranks, 'rank')}, {reason}: {', '.join(names)}."
        for (ranks, reason), names in found.items()
    ]


def _spread(found: Spread | None, unit: float = GIGA) -> str:
    if found is None:
        return UNKNOWN
    median, low, high = (figure(value / unit, 3) for value in (found.median, found.low, found.high))
    return f"{median} [{low} – {high}]"
