"""What trainings came to: time and items to the target, and what validation and checkpoints cost."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from scalebench.recipe import Recipe
from scalebench.records.record import Record
from scalebench.records.training import Evaluation, TrainingFacts

from .cells import ordered


def trainings(records: Iterable[Record]) -> list[tuple[Record, Recipe, TrainingFacts]]:
    """Those that came to their end, in the order they ran."""
    found = [(record, record.recipe, record.training) for record in ordered(records) if record.status == "ok"]
    return [(record, recipe, facts) for record, recipe, facts in found if recipe and facts]


def reached(recipe: Recipe, facts: TrainingFacts) -> Evaluation | None:
    """The first validation that reached the target; None without one."""
    target = recipe.target
    if target is None:
        return None
    return next((one for one in facts.evaluations if target.reached_by(one.metrics[target.metric])), None)


def best(recipe: Recipe, facts: TrainingFacts) -> Evaluation | None:
    """The validation with the best monitored metric, of equals the earliest."""
    known = [one for one in facts.evaluations if one.metrics[recipe.monitor] == one.metrics[recipe.monitor]]
    sign = -1 if recipe.higher else 1
    return min(known, key=lambda one: sign * one.metrics[recipe.monitor], default=None)


def validation_share(facts: TrainingFacts) -> float | None:
    """Share of the elapsed time that went into validations."""
    if not facts.evaluations or not facts.elapsed_seconds:
        return None
    return sum(one.seconds for one in facts.evaluations) / facts.elapsed_seconds


def ranks_busy(facts: TrainingFacts) -> float | None:
    """Share of the ranks that validated at any moment, the mean over all validations: busy seconds of all ranks over
    those of as many as the busiest of each. 1 / ranks where one evaluates everything."""
    known = [one.rank_seconds for one in facts.evaluations if one.rank_seconds]
    longest = sum(len(seconds) * max(seconds) for seconds in known)
    return sum(map(sum, known)) / longest if longest else None


def stall_seconds(facts: TrainingFacts) -> float | None:
    """Mean time for which a checkpoint held training up."""
    return fmean(save.seconds for save in facts.saves) if facts.saves else None


def durable_seconds(facts: TrainingFacts) -> float | None:
    """Mean time until a checkpoint was on disk; None for older records."""
    known = [save.durable_seconds for save in facts.saves if save.durable_seconds is not None]
    return fmean(known) if known else None


def checkpoint_bytes(facts: TrainingFacts) -> int | None:
    """What the last checkpoint's files hold."""
    return facts.saves[-1].file_bytes if facts.saves else None
