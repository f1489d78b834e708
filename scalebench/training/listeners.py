"""Who hears how a training goes: its launcher, by the board; trackers, by the feed; the user's own callbacks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scalebench.harness.loop import Timeline
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place
from scalebench.records.training import Evaluation, Save
from scalebench.trackers.feed import Feed
from scalebench.training.board import Board, Standing
from scalebench.training.callbacks import Callbacks, Moment
from scalebench.training.figures import (
    figures_of_checkpoint,
    figures_of_process,
    figures_of_steps,
    figures_of_validation,
)


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Those of one rank: the board and the feed are rank 0's alone."""

    board: Board | None
    feed: Feed | None
    callbacks: Callbacks
    place: Place
    phase: Phase

    def call(self, hook: str, moment: Moment) -> None:
        """Let the user's callbacks know."""
        if self.callbacks:
            self.phase.enter("callbacks")
            self.callbacks.call(hook, moment)

    def made_steps(self, moment: Moment, ran: Timeline, *, loss: float, rate: float, epoch: float) -> None:
        """Of the steps since the last look: `loss` is their mean over the ranks, `rate` items per second of all."""
        learning_rate: float = moment.optimizer.param_groups[0]["lr"]
        self._post(step=moment.step, loss=loss, learning_rate=learning_rate, rate=rate)
        if self.feed:
            figures = figures_of_steps(ran, loss=loss, rate=rate, learning_rate=learning_rate, epoch=epoch)
            self.feed.look(figures | figures_of_process(self.place.device), moment.step)
        self.call("on_steps", moment)

    def validated(self, moment: Moment, evaluation: Evaluation, *, number: int, monitored: float) -> None:
        """Of the validation of that `number`."""
        self._post(validations=number, metric=monitored)
        if self.feed:
            self.feed.scalars(figures_of_validation(evaluation), moment.step)
        self.call("on_validation", moment)

    def generated(self, pictures: Tensor, step: int) -> None:
        """Of samples to be looked at."""
        if self.feed:
            self.feed.images("samples", pictures, step)

    def saved(self, moment: Moment, save: Save) -> None:
        """Of a checkpoint that has come to be on disk."""
        if self.feed:
            self.feed.scalars(figures_of_checkpoint(save), moment.step)
        self.call("on_checkpoint", moment)

    def _post(self, **news: float) -> None:
        if self.board:
            self.board.write(Standing(**{**vars(self.board.read()), **news}))
