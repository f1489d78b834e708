"""One rank of a training, from its place among the ranks to its report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scalebench import compat, workloads
from scalebench.harness.job import Job, Report
from scalebench.harness.loading import loader_of
from scalebench.harness.memory_limit import limited_memory
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place
from scalebench.harness.window import Meters, chunks_of, run_row
from scalebench.harness.worker import Stages, own_sampler, rank_facts, theory_facts, work, workload_facts
from scalebench.meters.memory import read_peaks, resident_bytes
from scalebench.recipe import Recipe, Training
from scalebench.spec import RunSpec
from scalebench.strategies.base import Batch, Strategy
from scalebench.trackers.feed import Feed
from scalebench.training.board import Board
from scalebench.training.callbacks import Callbacks
from scalebench.training.checkpoints import Checkpoints
from scalebench.training.figures import figures_of_test
from scalebench.training.listeners import Listeners
from scalebench.training.manifest import read_manifest
from scalebench.training.parts import parts
from scalebench.training.pictures import Sheets
from scalebench.training.sampling import sampling
from scalebench.training.shares import Share
from scalebench.training.testing import tested
from scalebench.training.trainer import Course, Trainer, resumed
from scalebench.training.validation import Validation
from scalebench.workloads.base import SampleSource, Workload
from scalebench.workloads.checkpoint import started


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """One rank's part of a training; where rank 0 shows how it stands, what it tells trackers, where it keeps what it
    generates, and where checkpoints are written first."""

    board: Board
    feed: Feed | None
    sheets: Sheets
    staging: Path | None


def main(job: Job) -> Report:
    """What every rank does."""
    return work(job, perform=perform)[0]


def perform(job: Job, strategy: Strategy, place: Place, phase: Phase, stages: Stages) -> Report:
    """Train, and report as a run does, with what the training went through."""
    with own_sampler(job, place) as sampler:
        report = tested(train(job, strategy, place, phase, stages), job, strategy, place, phase)
    if place.rank == 0 and isinstance(job, TrainJob) and job.feed and report.training and report.training.test:
        job.feed.scalars(figures_of_test(report.training.test), report.training.evaluations[-1].step)
    return report.with_sensors(sampler.facts())


def train(job: Job, strategy: Strategy, place: Place, phase: Phase, stages: Stages) -> Report:
    """Prepare, take up a checkpoint if there is one to go on from, and run steps until the trainer says stop."""
    spec, training = job.run.spec, job.run.training
    assert training is not None, "a run of kind `train` has one"
    phase.enter("preparing")
    plain = workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed)
    workload = started(plain, spec.init_from)
    split = parts(workload, spec, training.recipe)
    resident_before = resident_bytes()
    stages.end("data")
    course = course_of(job, workload, split.val, place, phase)
    meters = Meters(place=place, phase=phase)
    with limited_memory(spec.memory_limit_bytes, place.device):
        step = strategy.prepare(workload, spec.train_config(), place.device)
        compat.limit_waits(spec.timeout_seconds)
        stages.end("prepare")
        trainer = Trainer(course=course, step=step)
        load_seconds = take_up(trainer, training)
        row = run_row(chunks_of(step, batches_of(trainer, split.train), place.device), trainer, meters)
    if row.chunks:
        stages.mark("first_step", row.chunks[0].step_end_ns[0])
    memory, skipped = read_peaks(place.device, resident_before), step.skipped_steps()
    step.close()
    return Report(
        window=row.window,
        facts=rank_facts(place, row, meters, memory, skipped, stages),
        workload=workload_facts(workload, split.train),
        theory=theory_facts(workload, spec) if place.rank == 0 else None,
        unmatched=list(strategy.unmatched(spec.train_config(), spec.device, place.world_size)),
        training=trainer.facts(len(split.train), training.resume, load_seconds),
    )


def course_of(job: Job, workload: Workload, val_part: SampleSource, place: Place, phase: Phase) -> Course:
    """What the training of `job` goes through."""
    assert isinstance(job, TrainJob)
    assert job.run.training is not None
    spec, training, recipe = job.run.spec, job.run.training, job.run.training.recipe
    return Course(
        spec=spec,
        recipe=recipe,
        place=place,
        phase=phase,
        validation=Validation(share=share_of(val_part, spec, recipe, place, phase), workload=workload),
        sampling=sampling(spec, recipe, val_part, place, phase),
        sheets=job.sheets,
        checkpoints=Checkpoints(
            folder=Path(training.folder),
            recipe=recipe,
            workload=workload,
            place=place,
            phase=phase,
            staging=job.staging,
        ),
        listeners=Listeners(
            board=job.board if place.rank == 0 else None,
            feed=job.feed if place.rank == 0 else None,
            callbacks=Callbacks(recipe.callbacks),
            place=place,
            phase=phase,
        ),
        items_per_step=spec.global_batch * workload.items_per_sample,
    )


def share_of(source: SampleSource, spec: RunSpec, recipe: Recipe, place: Place, phase: Phase) -> Share:
    """This rank's micro-batches of what is validated on."""
    return Share(
        source=source,
        micro_batch=spec.micro_batch,
        batches=recipe.val_batches,
        on=recipe.validate_on,
        place=place,
        phase=phase,
    )


def batches_of(trainer: Trainer, source: SampleSource) -> Iterator[list[Batch]]:
    """This rank's micro-batches of each step from where the training is, with a beat and its learning rate."""
    course, per_epoch = trainer.course, trainer.course.recipe.steps_per_epoch
    position = {"first_step": trainer.done, "steps_per_epoch": per_epoch}
    batches = loader_of(source, course.spec, course.place, course.spec.num_workers, **position)
    return trainer.learning_rates(course.phase.beating(batches))


def take_up(trainer: Trainer, training: Training) -> float | None:
    """Go on from the checkpoint that is to be resumed, if any; how long it took to load."""
    if training.resume is None:
        return None
    began, course = time.monotonic(), trainer.course
    course.phase.enter("loading")
    checkpoint = Path(training.resume)
    manifest = read_manifest(checkpoint)
    course.checkpoints.load(checkpoint, trainer.step, resizing=manifest.spec.world_size != course.place.world_size)
    resumed(trainer, manifest)
    return time.monotonic() - began
