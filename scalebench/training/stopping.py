"""When a training ends, which of its validations was best, what is worth keeping: functions of validations alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from scalebench.errors import UserError
from scalebench.recipe import Recipe
from scalebench.records.training import Ended, Evaluation


def ended(recipe: Recipe, evaluations: Sequence[Evaluation], step: int) -> Ended | None:
    """Why a training that has made `step` steps is over; None while it is not."""
    last = evaluations[-1] if evaluations else None
    if last and last.step == step and recipe.target and recipe.target.reached_by(last.metrics[recipe.target.metric]):
        return "target"
    if recipe.patience and without_better(recipe, evaluations) >= recipe.patience:
        return "patience"
    return "steps" if step >= recipe.steps else None


def without_better(recipe: Recipe, evaluations: Sequence[Evaluation]) -> int:
    """Validations since the best one."""
    if not evaluations:
        return 0
    scores = [score(recipe, evaluation.metrics) for evaluation in evaluations]
    return len(scores) - 1 - scores.index(max(scores))


def score(recipe: Recipe, metrics: dict[str, float]) -> float:
    """The monitored metric, larger being better, and nan worst of all."""
    value = metrics.get(recipe.monitor, math.nan)
    if math.isnan(value):
        return -math.inf
    return value if recipe.higher else -value


def worth_saving(recipe: Recipe, evaluations: Sequence[Evaluation], step: int) -> bool:
    """Whether a checkpoint is written after `step` steps: every so many, and when a validation there is among the best
    that are kept."""
    if recipe.save_every and step % recipe.save_every == 0:
        return True
    if not evaluations or evaluations[-1].step != step:
        return False
    *before, last = (score(recipe, one.metrics) for one in evaluations)
    return sum(one >= last for one in before) < recipe.keep_best


def require_known(recipe: Recipe, metrics: Collection[str]) -> None:
    """Raise UserError for a metric that is asked for, and that is none of those that validation gives."""
    for name in filter(None, (recipe.monitor, recipe.target and recipe.target.metric)):
        if name not in metrics:
            raise UserError(f"validation knows no {name}. Allowed: {', '.join(metrics)}.")


def next_stop(recipe: Recipe, step: int) -> int:
    """The step, after `step`, before which nothing but steps is to be done."""
    periods = [period for period in (recipe.log_every, recipe.val_every, recipe.save_every) if period]
    return min([recipe.steps, *((step // period + 1) * period for period in periods)])
