"""The learning rate of each step: scaled with the batch, warmed up, then along a schedule. Torch-free."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from scalebench.recipe import Recipe, Rule

if TYPE_CHECKING:
    from scalebench.workloads.base import LearningRates


def scaled(base: float, rule: Rule, factor: float) -> float:
    """`base` for a batch `factor` times as large: as it is, times the factor (Goyal et al., arXiv:1706.02677), or times
    its root (Krizhevsky, arXiv:1404.5997)."""
    return base * {"none": 1.0, "linear": factor, "sqrt": math.sqrt(factor)}[rule]


def learning_rate(recipe: Recipe, peak: float, step: int) -> float:
    """Of step `step`, counted from 0: linear to `peak` over the warm-up, then constant, along half a cosine (Loshchilov
    and Hutter, arXiv:1608.03983) or a straight line to 0, which is where step `recipe.steps` would be."""
    if step < recipe.warmup_steps:
        return peak * (step + 1) / recipe.warmup_steps
    gone = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    shapes = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * gone)) / 2, "linear": 1 - gone}
    return peak * shapes[recipe.schedule]


def learning_rates(recipe: Recipe, peak: float, own: LearningRates | None, first: int) -> Iterator[float]:
    """The learning rate of each step from step `first` on, endless; `own` is what the model's scheduler makes of it."""
    if recipe.schedule == "model":
        assert own is not None, "told before launch"
        return itertools.islice(own(peak, recipe.steps_per_epoch), first, None)
    return (learning_rate(recipe, peak, step) for step in itertools.count(first))
