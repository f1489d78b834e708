"""What happens between the chunks of a training's steps: progress, validation, checkpoints, and whether to go on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scalebench.harness.loop import Timeline
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place, barrier
from scalebench.recipe import Recipe
from scalebench.records.training import Ended, Evaluation, Sheet, TrainingFacts
from scalebench.spec import RunSpec
from scalebench.stats.pacing import Chunk, Stopped
from scalebench.strategies.base import Batch, TrainStep
from scalebench.training import stopping
from scalebench.training.agreeing import mean_of_all
from scalebench.training.callbacks import Moment
from scalebench.training.checkpoints import Checkpoints
from scalebench.training.keeping import best_of
from scalebench.training.learning_rate import learning_rates
from scalebench.training.listeners import Listeners
from scalebench.training.manifest import Manifest, checkpoint_name, checkpoints_in
from scalebench.training.pictures import Sheets
from scalebench.training.sampling import Sampling
from scalebench.training.validation import Validation


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a training goes through: everything that does not change on the way."""

    spec: RunSpec
    recipe: Recipe
    place: Place
    phase: Phase
    validation: Validation
    sampling: Sampling | None
    sheets: Sheets
    checkpoints: Checkpoints
    listeners: Listeners
    items_per_step: int


@dataclass(kw_only=True)
class Trainer:
    """Says which steps are next, as a run's Pacing does, and does between them what is to be done.

    Attributes:
        done: steps behind it. elapsed: seconds of the parts before this one. saves_told: checkpoints told of.
    """

    course: Course
    step: TrainStep
    done: int = 0
    elapsed: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    saves_told: int = 0
    ended: Ended | None = None
    _began: float = 0.0
    _first: int = 0

    def begin(self) -> Chunk | Stopped:
        self._began, self._first = time.monotonic(), self.done
        self.ended = stopping.ended(self.course.recipe, self.evaluations, self.done)
        self.course.listeners.call("on_begin", self._moment())
        return self._next()

    def go_on(self, ran: Timeline) -> Chunk | Stopped:
        """What follows the steps that have just run. Collective, and the same on every rank."""
        self.done += len(ran.losses)
        recipe = self.course.recipe
        self._show(ran)
        if self.done % recipe.val_every == 0 or self.done >= recipe.steps:
            self._validate()
        self.ended = stopping.ended(recipe, self.evaluations, self.done)
        if self.ended or stopping.worth_saving(recipe, self.evaluations, self.done):
            self._save()
        self._look_after_checkpoints()
        self._tell_saves()
        if self.ended:
            self.course.listeners.call("on_end", self._moment())
        return self._next()

    def learning_rates(self, batches: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        """`batches`, before each of which the step is told its learning rate."""
        course = self.course
        peak, own = course.spec.optimizer.learning_rate, course.validation.workload.rates
        rates = learning_rates(course.recipe, peak, own, self.done)
        for micro_batches, rate in zip(batches, rates, strict=False):
            self.step.set_learning_rate(rate)
            yield micro_batches

    def facts(self, train_samples: int, resumed_from: str | None, load_seconds: float | None) -> TrainingFacts:
        """What this part of the training went through."""
        found = checkpoints_in(self.course.checkpoints.folder)
        best = best_of(self.course.recipe, found)
        assert self.ended is not None, "it has come to its end"
        return TrainingFacts(
            first_step=self._first,
            resumed_from=resumed_from,
            load_seconds=load_seconds,
            evaluations=self.evaluations,
            saves=self.course.checkpoints.saves,
            sheets=self.sheets,
            elapsed_seconds=self._elapsed(),
            train_samples=train_samples,
            val_samples=self.course.validation.share.samples,
            ended=self.ended,
            best=str(best[0]) if best else None,
            last=str(found[-1]) if found else None,
        )

    def _next(self) -> Chunk | Stopped:
        if self.ended:
            return "steps"
        steps = stopping.next_stop(self.course.recipe, self.done) - self.done
        self.course.phase.enter("measuring")
        return Chunk(steps=steps, opens=self.done == self._first)

    def _validate(self) -> None:
        self.course.phase.enter("validating")
        began = time.monotonic()
        found = self.course.validation(self.step)
        generated, generate_seconds = self._generated()
        metrics = found.metrics | generated
        stopping.require_known(self.course.recipe, metrics)
        evaluation = Evaluation(
            step=self.done,
            samples=self.done * self.course.spec.global_batch,
            elapsed_seconds=self._elapsed(),
            seconds=time.monotonic() - began,
            metrics=metrics,
            generate_seconds=generate_seconds,
            rank_samples=found.rank_samples,
            rank_seconds=found.rank_seconds,
        )
        self.evaluations.append(evaluation)
        monitored = metrics[self.course.recipe.monitor]
        listeners, number = self.course.listeners, len(self.evaluations)
        listeners.validated(self._moment(), evaluation, number=number, monitored=monitored)

    def _generated(self) -> tuple[dict[str, float], float | None]:
        """The metrics of what is generated now, and how long that took; rank 0 keeps a sheet of it."""
        if self.course.sampling is None:
            return {}, None
        began = time.monotonic()
        metrics, pictures = self.course.sampling(self.step)
        if pictures is not None and self.course.place.rank == 0:
            self.sheets.append(self.course.sheets.keep(pictures, self.done))
            self.course.listeners.generated(pictures, self.done)
        return metrics, time.monotonic() - began

    def _save(self) -> None:
        self.course.phase.enter("saving")
        manifest = Manifest(
            step=self.done,
            elapsed_seconds=self._elapsed(),
            evaluations=self.evaluations,
            contents=self.course.recipe.contents,
            spec=self.course.spec,
            recipe=self.course.recipe,
        )
        self.course.checkpoints.save(self.step, manifest)

    def _look_after_checkpoints(self) -> None:
        """The end waits until the last one is on disk."""
        if self.ended:
            self.course.checkpoints.settle()
            barrier(self.course.place.device)
        else:
            self.course.checkpoints.look()

    def _show(self, ran: Timeline) -> None:
        mean = mean_of_all(ran.losses)
        seconds = (ran.step_end_ns[-1] - ran.start_ns) * 1e-9
        rate = len(ran.losses) * self.course.items_per_step / seconds
        epoch = self.done / self.course.recipe.steps_per_epoch
        moment = self._moment(losses=ran.losses)
        self.course.listeners.made_steps(moment, ran, loss=mean, rate=rate, epoch=epoch)

    def _tell_saves(self) -> None:
        """Of the checkpoints that have come to be on disk, which rank 0 knows."""
        new = self.course.checkpoints.saves[self.saves_told :]
        self.saves_told += len(new)
        for save in new if self.course.place.rank == 0 else ():
            path = self.course.checkpoints.folder / checkpoint_name(save.step)
            self.course.listeners.saved(self._moment(checkpoint=path), save)

    def _moment(self, losses: Sequence[float] = (), checkpoint: Path | None = None) -> Moment:
        return Moment(
            step=self.done,
            steps=self.course.recipe.steps,
            rank=self.course.place.rank,
            world_size=self.course.place.world_size,
            module=self.step.module,
            optimizer=self.step.optimizer,
            losses=losses,
            metrics=self.evaluations[-1].metrics if self.evaluations else None,
            checkpoint=checkpoint,
        )

    def _elapsed(self) -> float:
        return self.elapsed + time.monotonic() - self._began


def resumed(trainer: Trainer, manifest: Manifest) -> None:
    """Let `trainer` begin where the checkpoint of `manifest` is."""
    trainer.done, trainer.elapsed = manifest.step, manifest.elapsed_seconds
    trainer.evaluations = list(manifest.evaluations)
