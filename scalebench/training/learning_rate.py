"""The learning rate of each step: scaled with the batch, warmed up, then along a schedule."""

from __future__ import annotations

import math

from scalebench.recipe import Recipe, Rule


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
