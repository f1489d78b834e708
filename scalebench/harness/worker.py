"""One rank of one run, from a fresh process to its report."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist

from scalebench import adapters, compat, strategies, workloads
from scalebench.errors import UnsupportedError
from scalebench.harness import parity
from scalebench.harness.anomaly import placed_anomalies
from scalebench.harness.diagnosis import Diagnosis, diagnose
from scalebench.harness.job import Job, Report
from scalebench.harness.loading import at_rates, loader_of, with_loader_rates
from scalebench.harness.memory_limit import limited_memory
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place, barrier, process_group, take_place
from scalebench.harness.window import Meters, Pacing, Row, chunks_of, run_row
from scalebench.meters.device import Sampler
from scalebench.meters.memory import read_peaks, resident_bytes
from scalebench.records.memory import MemoryFacts
from scalebench.records.record import RankFacts, WorkloadFacts
from scalebench.records.theory import TheoryFacts
from scalebench.scheme import model_of, scheme_of
from scalebench.spec import RunSpec
from scalebench.strategies.base import Strategy
from scalebench.workloads.base import SampleSource, Workload
from scalebench.workloads.checkpoint import started


def main(job: Job) -> Report:
    """What every rank does."""
    return work(job)[0]


def work(job: Job, *, gather: bool = False, perform: Perform | None = None) -> list[Report]:
    """Do this rank's part of `job`, its run unless another way to `perform` is given, in its place among the ranks.

    Returns its report; with `gather`, on rank 0 every rank's, elsewhere nothing.
    """
    started_ns = time.monotonic_ns()
    spec = job.run.spec
    place = take_place(spec)
    phase = Phase(job.pulse, place.rank)
    phase.enter("joining")
    strategy = strategies.create(spec.strategy, spec.strategy_options)
    reason = strategy.unsupported_reason(spec.train_config(), spec.device, place.world_size)
    if reason:
        raise UnsupportedError(reason)
    stages = Stages(job.launched_ns or started_ns)
    stages.end("process")
    group = process_group(spec, place, job.folder, needed=strategy.needs_process_group)
    with group, placed_anomalies(spec.detect_anomaly):
        stages.end("process_group")
        report = (perform or run_or_compare)(job, strategy, place, phase, stages)
        return gathered(report, place) if gather else [report]


def run_or_compare(job: Job, strategy: Strategy, place: Place, phase: Phase, stages: Stages) -> Report:
    """The run or the parity check that was planned."""
    spec = job.run.spec
    if job.run.kind == "parity":
        phase.enter("comparing")
        return parity.check(spec, strategy, place, phase)
    with own_sampler(job, place) as sampler:
        report = measure(spec, strategy, place, phase, stages)
    return with_loader_rates(report.with_sensors(sampler.facts()), job.run, place)


def own_sampler(job: Job, place: Place) -> Sampler:
    """Where no launcher of ours reads the sensors each rank reads its own GPU's, and a host's first also its CPUs'."""
    alone, uuid = job.folder is None, device_uuid(place.device)
    return Sampler(read_by="rank", gpus=alone and uuid is not None, uuid=uuid, cpus=alone and place.local_rank == 0)


def gathered(report: Report, place: Place) -> list[Report]:
    """Every rank's report on rank 0, nothing elsewhere."""
    if not dist.is_initialized():
        return [report]
    reports: list[Report] | None = [report] * place.world_size if place.rank == 0 else None
    dist.gather_object(report, reports)
    return reports or []


def measure(spec: RunSpec, strategy: Strategy, place: Place, phase: Phase, stages: Stages) -> Report:
    """Prepare, warm up, time the window, then look at what ran, off the clock."""
    phase.enter("preparing")
    workload = started(
        workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed), spec.init_from
    )
    source = workload.samples(spec.data, spec.seed)
    batches = phase.beating(loader_of(source, spec, place, spec.num_workers))
    resident_before = resident_bytes()
    stages.end("data")
    meters = Meters(place=place, phase=phase)
    with limited_memory(spec.memory_limit_bytes, place.device):  # what looks at the run later is no part of it
        step = strategy.prepare(workload, spec.train_config(), place.device)
        batches = at_rates(batches, step, workload, spec, len(source))
        compat.limit_waits(spec.timeout_seconds)
        stages.end("prepare")
        phase.enter("warm-up")
        row = run_row(chunks_of(step, batches, place.device), Pacing(spec, place), meters)
    stages.mark("first_step", row.chunks[0].step_end_ns[0])
    memory = read_peaks(place.device, resident_before)
    skipped = step.skipped_steps()
    phase.enter("diagnostics")
    ready = partial(barrier, place.device)
    found = diagnose(step, batches, spec, place.device, ready) if spec.diagnostics else Diagnosis()
    memory = memory.model_copy(update=found.memory)
    report = Report(
        window=row.window,
        facts=rank_facts(place, row, meters, memory, skipped, stages).model_copy(update=found.facts),
        contract=found.contract,
        contradictions=found.contradictions,
        workload=workload_facts(workload, source),
        theory=theory_facts(workload, spec) if place.rank == 0 else None,
        unmatched=list(strategy.unmatched(spec.train_config(), spec.device, place.world_size)),
    )
    step.close()
    return report


class Stages:
    """Durations of the stages of start-up, each ending where the next begins."""

    def __init__(self, since_ns: int) -> None:
        self.seconds: dict[str, float] = {}
        self._since_ns = since_ns

    def end(self, name: str) -> None:
        self.mark(name, time.monotonic_ns())

    def mark(self, name: str, at_ns: int) -> None:
        self.seconds[name] = (at_ns - self._since_ns) / 1e9
        self._since_ns = at_ns


def rank_facts(place: Place, row: Row, meters: Meters, memory: MemoryFacts, skipped: int, stages: Stages) -> RankFacts:
    """Everything this rank measured, as plain numbers."""
    cuda = place.device.type == "cuda"
    return RankFacts(
        rank=place.rank,
        local_rank=place.local_rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        device_name=torch.cuda.get_device_name(place.device) if cuda else None,
        device_uuid=device_uuid(place.device),
        device_memory_bytes=torch.cuda.get_device_properties(place.device).total_memory if cuda else None,
        clock="cuda-event" if cuda else "monotonic",
        chunks=row.chunk_facts(),
        step_end_ns=row.joined(lambda timeline: timeline.step_end_ns),
        losses=row.joined(lambda timeline: timeline.losses),
        grad_norms=row.joined(lambda timeline: timeline.grad_norms),
        data_wait_ns=row.joined(lambda timeline: timeline.data_wait_ns),
        skipped_steps=skipped,
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        affinity=sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        memory=memory,
        startup_seconds=stages.seconds,
        cpu_span_seconds=meters.cpu.clock,
        cpu_seconds=meters.cpu.own,
        main_thread_seconds=meters.cpu.main,
        cpu_wait_seconds=meters.cpu.waited,
        throttled_seconds=meters.cpu.throttled,
        host_busy_seconds=meters.cpu.host_busy,
        host_stolen_seconds=meters.cpu.host_stolen,
        window_compilations=meters.compilations,
        network=meters.network,
    )


def device_uuid(device: torch.device) -> str | None:
    """The GPU's UUID as torch gives it; None on a CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


Perform = Callable[[Job, Strategy, Place, Phase, Stages], Report]
"""What a rank does once it has its place and its process group."""


def workload_facts(workload: Workload, source: SampleSource) -> WorkloadFacts:
    """The model and the data, as the record keeps them."""
    return WorkloadFacts(
        parameters=workload.parameter_count(),
        item=workload.item,
        items_per_sample=workload.items_per_sample,
        flops_per_sample=workload.flops_per_sample(),
        causal_flops_per_sample=workload.flops_per_sample(causal=True),
        recomputed_flops_per_sample=workload.recomputed_flops_per_sample(),
        data_name=source.name,
        data_sha256=source.sha256,
        data_samples=len(source),
        notes=adapters.notes_of(workload),
    )


def theory_facts(workload: Workload, spec: RunSpec) -> TheoryFacts:
    """What theory needs to know of this run."""
    model = model_of(workload, whole_regions=spec.compile)
    return TheoryFacts(model=model, scheme=scheme_of(spec, model), saved=workload.saved_activations())
