"""Which metrics a validation will give, known before a training starts: a misspelt one would be told an epoch later."""

from __future__ import annotations

import torch

from scalebench import workloads
from scalebench.recipe import Recipe
from scalebench.spec import RunSpec
from scalebench.training.stopping import require_known


def require_metrics(spec: RunSpec, recipe: Recipe) -> None:
    """Raise UserError for a metric that is asked for, and that the workload is known not to give."""
    known = ["loss", *([recipe.fid.metric] if recipe.fid else [])]
    if {recipe.monitor, recipe.target.metric if recipe.target else "loss"} <= set(known):
        return
    given = metric_names(spec)
    if given:
        require_known(recipe, [*given, *known[1:]])


def metric_names(spec: RunSpec) -> list[str]:
    """By an evaluation of one sample on tensors without values; none where that takes values."""
    workload = workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed)
    with torch.device("meta"):
        module = workload.build().eval()
    sample = workload.samples(spec.data, spec.seed).__getitems__([0])
    try:
        sums = module({name: value.to("meta") for name, value in sample.items()}, "metrics")
    except Exception:  # whatever a model, perhaps a user's, does with values
        return []
    return list(workload.metrics({name: torch.ones(value.shape) for name, value in sums.items()}))
