"""Probing a machine: ranks that are started, placed and joined like a run's measure what the machine offers them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import torch

from scalebench.errors import UserError
from scalebench.harness.job import ProbeJob
from scalebench.harness.launcher import Launcher, LaunchError, StartMethod
from scalebench.harness.lifeline import private_folder
from scalebench.harness.phase import Phase
from scalebench.harness.placement import process_group, take_place
from scalebench.harness.runner import session_name
from scalebench.meters.probe_collectives import measure_collectives
from scalebench.meters.probe_device import measure_copies, measure_matmul, measure_memory
from scalebench.meters.repeats import Repeats
from scalebench.records.environment import collect
from scalebench.records.probe import (
    CollectiveFacts,
    CopyFacts,
    LatencyFit,
    MatmulFacts,
    MemoryPassFacts,
    Number,
    Probe,
    ProbeFacts,
)
from scalebench.records.store import require_writable, write_record
from scalebench.spec import ProbeSpec
from scalebench.stats.latency import fit_line
from scalebench.stats.spread import of_slowest

NUMBERS: dict[str, tuple[Number, ...]] = {"cpu": ("fp32", "bf16", "fp16"), "cuda": ("fp32", "tf32", "bf16", "fp16")}

Facts = TypeVar("Facts", MatmulFacts, MemoryPassFacts, CollectiveFacts, CopyFacts)


@dataclass(frozen=True, kw_only=True)
class RankProbe:
    """What one rank measured, and the device it measured on."""

    facts: ProbeFacts
    device_name: str | None


def probe(
    specs: Sequence[ProbeSpec], *, results: Path, start_method: StartMethod = "forkserver"
) -> Iterator[tuple[Probe, Path]]:
    """Probe once per spec, in order, and give each probe with its path once it is written.

    Raises UserError when `results` cannot be written or the ranks failed.
    """
    require_writable(results)
    session, environment = session_name(), collect()
    launcher = Launcher(device=specs[0].device, start_method=start_method)
    for spec in specs:
        started = datetime.now(UTC)
        ranks = _launch(launcher, spec)
        found = Probe(
            spec=spec,
            session=session,
            started_at=started.isoformat(timespec="milliseconds"),
            wall_seconds=(datetime.now(UTC) - started).total_seconds(),
            device_names=[rank.device_name for rank in ranks],
            facts=(facts := together([rank.facts for rank in ranks])),
            fits=list(fits(facts)),
            environment=environment,
        )
        yield found, write_record(found, results / session)


def _launch(launcher: Launcher, spec: ProbeSpec) -> list[RankProbe]:
    with private_folder() as folder:
        try:
            return launcher.launch(
                main, ProbeJob(spec=spec), spec.world_size, folder, patience=spec.max_seconds + spec.timeout_seconds
            )
        except LaunchError as error:
            ranks = f"{spec.world_size} rank{'s' if spec.world_size > 1 else ''}"
            raise UserError(f"the probe of {ranks} failed: {error}. Try fewer: --gpus.") from error


def main(job: ProbeJob) -> RankProbe:
    """What every rank does. It shows no sign of life while it measures."""
    place = take_place(job.spec)
    phase = Phase(job.pulse, place.rank)
    phase.enter("joining")
    with process_group(job.spec, place, job.folder, needed=True):
        phase.enter("measuring")
        deadline = time.monotonic_ns() + round(1e9 * job.spec.max_seconds)
        facts = measure(Repeats(device=place.device, deadline_ns=deadline), place.world_size)
    cuda = place.device.type == "cuda"
    return RankProbe(facts=facts, device_name=torch.cuda.get_device_name(place.device) if cuda else None)


def measure(repeats: Repeats, world_size: int) -> ProbeFacts:
    """Everything, as far as time allows. Matrix products leave half of the time to the rest. Collective."""
    left_out: dict[str, str] = {}
    device, half = repeats.device.type, repeats.part(1 / 2)
    memory = list(measure_memory(half))
    matmul = [facts for number in NUMBERS[device] for facts in measure_matmul(half, number, left_out)]
    copies = list(measure_copies(repeats)) if device == "cuda" else []
    collectives = list(measure_collectives(repeats, left_out)) if world_size > 1 else []
    return ProbeFacts(matmul=matmul, memory=memory, collectives=collectives, copies=copies, left_out=left_out)


def together(ranks: Sequence[ProbeFacts]) -> ProbeFacts:
    """The facts of all ranks as one: they made the same measurements in the same order."""
    return ProbeFacts(
        matmul=_joined([rank.matmul for rank in ranks]),
        memory=_joined([rank.memory for rank in ranks]),
        collectives=_joined([rank.collectives for rank in ranks]),
        copies=_joined([rank.copies for rank in ranks]),
        left_out=ranks[0].left_out,
    )


def _joined(ranks: Sequence[Sequence[Facts]]) -> list[Facts]:
    return [
        same[0].model_copy(update={"seconds": [seconds for facts in same for seconds in facts.seconds]})
        for same in zip(*ranks, strict=True)
    ]


def fits(facts: ProbeFacts) -> Iterator[LatencyFit]:
    """A line through the median times of each collective and each way of copying, over the payloads."""
    measured: dict[str, list[CollectiveFacts | CopyFacts]] = {}
    for collective in facts.collectives:
        measured.setdefault(collective.kind, []).append(collective)
    for copy in facts.copies:
        measured.setdefault(f"{copy.direction}, {'pinned' if copy.pinned else 'pageable'}", []).append(copy)
    for name, messages in measured.items():
        if len({message.payload_bytes for message in messages}) > 1:
            medians = [of_slowest(message.seconds).median for message in messages]
            line = fit_line([message.payload_bytes for message in messages], medians)
            yield LatencyFit(name=name, **dataclasses.asdict(line))
