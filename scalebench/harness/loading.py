"""A run's loader, and how fast it is when left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from scalebench import data, workloads
from scalebench.data.batches import steps_per_fetch
from scalebench.harness.job import Report
from scalebench.harness.placement import Place
from scalebench.meters.loading import WORKERS, measure_loader_rates
from scalebench.records.loading import STALLED
from scalebench.records.record import RankFacts
from scalebench.spec import PlannedRun, RunSpec
from scalebench.strategies.base import Batch, TrainStep
from scalebench.workloads.base import SampleSource, Workload


def loader_of(
    source: SampleSource, spec: RunSpec, place: Place, num_workers: int, **position: int | None
) -> Iterator[list[Batch]]:
    """This rank's endless steps of batches; `position` as `data.loader` has it."""
    return data.loader(
        source,
        micro_batch=spec.micro_batch,
        accumulation=spec.accumulation,
        rank=place.rank,
        world_size=place.world_size,
        seed=spec.seed,
        device=place.device,
        num_workers=num_workers,
        **position,
    )


def at_rates(
    batches: Iterator[list[Batch]], step: TrainStep, workload: Workload, spec: RunSpec, samples: int
) -> Iterator[list[Batch]]:
    """`batches`, each as the learning rate is set that the model's own scheduler gives to its step."""
    rates = workload.rates
    if rates is None:
        return batches
    scheduled = rates(spec.optimizer.learning_rate, samples // spec.global_batch)

    def paired() -> Iterator[list[Batch]]:
        for micro_batches, rate in zip(batches, scheduled, strict=False):
            step.set_learning_rate(rate)
            yield micro_batches

    return paired()


def with_loader_rates(report: Report, run: PlannedRun, place: Place) -> Report:
    """`report` with the rates of the loader alone. To be called when the run's own loader is gone."""
    facts, spec = report.facts, run.spec
    assert facts is not None, "a parity check times nothing"
    workload = workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed)
    source = workload.samples(spec.data, spec.seed)
    rates = measure_loader_rates(
        lambda num_workers: loader_of(source, spec, place, num_workers),
        steps_per_fetch(source, spec.micro_batch * spec.accumulation),
        worker_counts(run, facts),
    )
    return replace(report, facts=facts.model_copy(update={"loader_rates": rates}))


def worker_counts(run: PlannedRun, facts: RankFacts) -> list[int]:
    """No workers and as many as the run had; also the usual numbers where steps waited, or it was asked for."""
    span_ns = sum(chunk.end_ns - chunk.start_ns for chunk in facts.chunks)
    stalled = sum(facts.data_wait_ns) > STALLED * span_ns
    more = WORKERS if stalled or run.loader_rates else ()
    return sorted({0, run.spec.num_workers, *more})
