"""Of what the parts measured: each target, what was seen of it, and whether it is met. Unknown is not met."""

from __future__ import annotations

import json
import statistics
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from scalebench.analysis.cells import items_per_second
from scalebench.analysis.probe import matmul_rate
from scalebench.analysis.steps import window
from scalebench.analysis.trials import searches, value_of
from scalebench.analysis.utilisation import Utilisation, utilisation
from scalebench.machine import Machine
from scalebench.records.probe import Probe
from scalebench.records.record import Record
from scalebench.records.store import load_records
from scalebench.stats.intervals import geometric_mean
from tests.gpu.part import Note, archive_of, notes_in, unpack
from tests.gpu.plan import cells, spec_of

CONFIDENCE = 0.90
PEAK_SHARE = 0.50
OVERHEADS = {"ddp": 0.03, "fsdp": 0.03, "deepspeed_stage_1": 0.08, "deepspeed_stage_2": 0.08, "deepspeed_stage_3": 0.15}
LEAST_STEP_SECONDS = 0.2
MEMORY_SHARE = 0.02
NOT_MEASURED = "not measured"
ONE_GPU = Machine(device="cuda", gpu_count=1, cores=1, bf16_native=True)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One target; `met` is None where what was measured does not say."""

    target: str
    measured: str = NOT_MEASURED
    met: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What lies in a folder of parts: records and probes of all of them, how tasks ended, and other files by name."""

    records: Sequence[Record] = ()
    probes: Sequence[Probe] = ()
    notes: dict[str, Note] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    def ok(self, **fields: Any) -> list[Record]:
        """Timed runs that ended well and whose spec has these values."""
        return [record for record in self.of("run", **fields) if record.status == "ok"]

    def of(self, kind: str, **fields: Any) -> list[Record]:
        """Records of a kind whose spec has these values."""
        return [
            record
            for record in self.records
            if record.kind == kind and all(getattr(record.spec, name) == value for name, value in fields.items())
        ]


def gathered(out: Path) -> Evidence:
    """Everything under `out`, archives unpacked where only they are at hand."""
    folders = sorted({path.with_suffix("").with_suffix("") for path in out.glob("part-*.tar.gz")} | set(parts(out)))
    records: list[Record] = []
    probes: list[Probe] = []
    notes, files = dict[str, Note](), dict[str, Path]()
    for folder in folders:
        unpack(archive_of(folder), folder)
        notes |= notes_in(folder)
        files |= {path.name: path for path in folder.iterdir() if path.is_file()}
        if (folder / "results").is_dir():
            found = load_records(folder / "results")
            records += found.records
            probes += found.probes
    return Evidence(records=records, probes=probes, notes=notes, files=files)


def parts(out: Path) -> Iterable[Path]:
    return (path for path in out.glob("part-*") if path.is_dir())


def tests_pass(evidence: Evidence, file: str, target: str) -> Verdict:
    """The counts of a report of pytest's."""
    if file not in evidence.files:
        return Verdict(target=target)
    suites = ElementTree.parse(evidence.files[file]).getroot().iter("testsuite")
    counts: Counter[str] = Counter()
    for suite in suites:
        counts.update({name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")})
    bad, ran = counts["failures"] + counts["errors"], counts["tests"] - counts["skipped"]
    return Verdict(
        target=target, measured=f"{ran - bad} of {ran} passed, {counts['skipped']} skipped", met=ran > bad == 0
    )


def doctor(evidence: Evidence) -> Verdict:
    target, note = "doctor finds no problem", evidence.notes.get("doctor")
    return Verdict(target=target) if note is None else Verdict(target=target, measured=code(note), met=note.code == 0)


def code(note: Note) -> str:
    return "out of time" if note.code is None else f"exit code {note.code}"


def probed(evidence: Evidence) -> Verdict:
    target = "probe gives the rate of bf16 products"
    rates = [rate.median for probe in evidence.probes if (rate := matmul_rate(probe, "bf16"))]
    return (
        Verdict(target=target, measured=f"{max(rates) / 1e12:.0f} TFLOP/s", met=True)
        if rates
        else Verdict(target=target)
    )


def cells_run(evidence: Evidence) -> Verdict:
    """Every run that was not meant to run out of memory, those of the cover among them."""
    target = "every cell runs, or is said to be unsupported"
    runs = [record for record in evidence.of("run") if record.spec.memory_limit_bytes is None]
    if not runs:
        return Verdict(target=target)
    counts = Counter(record.status for record in runs)
    left = {spec_of(cell, ONE_GPU) for cell in cells()} - {record.spec for record in runs}
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    good = set(counts) <= {"ok", "unsupported"}
    if left:
        told += f"; {len(left)} of {len(cells())} cells not yet"
    return Verdict(target=target, measured=told, met=None if good and left else good)


def model_flops(evidence: Evidence) -> Verdict:
    """The best micro-batch's, and beside the peak of the data sheet the rate that a probe found."""
    target = f"gpt 1.3b, bf16, compiled: MFU of at least {PEAK_SHARE:.0%}"
    records = evidence.ok(workload="gpt", size="1.3b", precision="bf16", compile=True, strategy="single")
    found = [(used, record) for record in records if (used := utilisation(record, evidence.probes)) and used.mfu]
    if not found:
        return Verdict(target=target)
    used, record = max(found, key=lambda one: share(one[0]))
    probe = "" if used.of_probe is None else f", {used.of_probe:.1%} of the probed rate"
    told = f"{share(used):.1%} at micro-batch {record.spec.micro_batch}{probe}"
    return Verdict(target=target, measured=told, met=share(used) >= PEAK_SHARE)


def share(used: Utilisation) -> float:
    return used.mfu or 0.0


def beside_nanogpt(evidence: Evidence) -> Verdict:
    """The fastest micro-batch of each."""
    target = "gpt 124m: tokens/s at least nanoGPT's"
    ours = [
        rate for record in evidence.ok(workload="gpt", size="124m", compile=True) if (rate := items_per_second(record))
    ]
    if not ours:
        return Verdict(target=target)
    told = f"{max(ours):,.0f} tokens/s"
    if "peer.json" not in evidence.files:
        return Verdict(target=target, measured=f"{told}; nanoGPT {NOT_MEASURED}")
    theirs = max(json.loads(evidence.files["peer.json"].read_text()).values())
    return Verdict(target=target, measured=f"{told}; nanoGPT {theirs:,.0f}", met=max(ours) >= theirs)


def overhead(evidence: Evidence, strategy: str, most: float) -> Verdict:
    """Steps of `strategy` over those of `single` of the same session and repeat."""
    target = f"{strategy} at one rank: at most {most:.0%} over single ({CONFIDENCE:.0%} interval)"
    steps = {name: step_seconds(evidence, name) for name in ("single", strategy)}
    blocks = steps["single"].keys() & steps[strategy].keys()
    if not blocks:
        return Verdict(target=target)
    ratio = geometric_mean([steps[strategy][b] / steps["single"][b] for b in blocks], CONFIDENCE)
    base = statistics.median(steps["single"][block] for block in blocks)
    if ratio.low is None or ratio.high is None:
        return Verdict(target=target, measured=f"{ratio.value - 1:+.1%}, one block and so no interval")
    ends = f"[{ratio.low - 1:+.1%}, {ratio.high - 1:+.1%}]"
    told = f"{ratio.value - 1:+.1%} {ends} of {base * 1e3:.0f} ms, {len(blocks)} blocks"
    met = ratio.high <= 1 + most if base >= LEAST_STEP_SECONDS else None
    return Verdict(target=target, measured=told, met=met)


def step_seconds(evidence: Evidence, strategy: str) -> dict[tuple[str, int], float]:
    """Mean step of the runs without diagnostics, which the study of overheads makes, by session and repeat."""
    found = evidence.ok(strategy=strategy, workload="gpt", size="1.3b", diagnostics=False)
    return {
        (record.session, record.repeat): measured.wall_seconds / measured.steps
        for record in found
        if (measured := window(record))
    }


def traced(evidence: Evidence) -> Verdict:
    target = "what exceeds it is explained: exposed and idle time"
    if "traces.json" not in evidence.files:
        return Verdict(target=target)
    found = json.loads(evidence.files["traces.json"].read_text())
    told = "; ".join(f"{one['strategy']} exposed {one['exposed']:.1f}, idle {one['idle']:.1f} ms" for one in found)
    return Verdict(target=target, measured=told, met=bool(found))


def memory_adds_up(evidence: Evidence) -> Verdict:
    """The categories of a step after the window against the allocator's peak in the window."""
    target = f"categories sum to max_memory_allocated within {MEMORY_SHARE:.0%}"
    found = [
        (abs(sum(memory.split.model_dump().values()) / memory.allocated_peak - 1), record.spec.label)
        for record in evidence.ok(device="cuda")
        for memory in (rank.memory for rank in record.ranks)
        if memory.split is not None and memory.allocated_peak
    ]
    if not found:
        return Verdict(target=target)
    worst, label = max(found)
    inside = sum(apart <= MEMORY_SHARE for apart, _ in found)
    told = f"{inside} of {len(found)} runs; furthest {worst:.1%} ({label})"
    return Verdict(target=target, measured=told, met=worst <= MEMORY_SHARE)


def out_of_memory(evidence: Evidence) -> Verdict:
    """By the tasks' order: first a run that does not fit, then one that does."""
    target = "a lack of memory is recorded as oom, and the next cell runs clean"
    limited = [record for record in evidence.of("run") if record.spec.memory_limit_bytes is not None]
    after = evidence.notes.get("after-oom")
    if not limited or after is None:
        return Verdict(target=target)
    told = f"{', '.join(sorted({record.status for record in limited}))}; the next: {code(after)}"
    return Verdict(target=target, measured=told, met={r.status for r in limited} == {"oom"} and after.code == 0)


def edge(evidence: Evidence, sought: str, target: str) -> Verdict:
    """What the searches of a kind found."""
    found = [one for one in searches(evidence.records) if one.trials[0].trial and one.trials[0].trial.sought == sought]
    ends = [(one.spec.strategy, one.largest, one.refused) for one in found]
    told = "; ".join(f"{name}: {tried(fits)} fits, {tried(refused)} does not" for name, fits, refused in ends)
    met = all(fits and refused and refused.status == "oom" for _, fits, refused in ends)
    return Verdict(target=target, measured=told, met=met) if ends else Verdict(target=target)


def tried(trial: Record | None) -> str:
    return "nothing" if trial is None else f"{value_of(trial):,}"


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Every target, in the order in which they are asked."""
    whole: list[Callable[[Evidence], Verdict]] = [doctor, probed, cells_run, model_flops, beside_nanogpt]
    last: list[Callable[[Evidence], Verdict]] = [traced, memory_adds_up, out_of_memory]
    return [
        tests_pass(evidence, "tests.xml", "tests that need a GPU pass (sensors, fork server, memory, waits)"),
        tests_pass(evidence, "all-tests.xml", "all other tests pass with the packages at hand"),
        *(ask(evidence) for ask in whole),
        *(overhead(evidence, strategy, most) for strategy, most in OVERHEADS.items()),
        *(ask(evidence) for ask in last),
        edge(evidence, "micro_batch", "--micro-batch auto finds the edge"),
        edge(evidence, "size", "--size max finds the edge"),
    ]


def show(out: Path) -> int:
    """Print the verdicts of what is under `out`; 0 when all targets are met, else 3."""
    found = verdicts(gathered(out))
    words = {True: "met", False: "NOT MET", None: "open"}
    for verdict in found:
        click.echo(f"{words[verdict.met]:8} {verdict.target}: {verdict.measured}")
    return 0 if all(verdict.met for verdict in found) else 3
