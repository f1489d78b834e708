"""Trainings that differ by their seed alone, taken together: what they came to, and how much data that took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scalebench.recipe import Recipe
from scalebench.records.record import Record
from scalebench.records.training import TrainingFacts
from scalebench.spec import RunSpec
from scalebench.stats.intervals import Estimate, geometric_mean, mean

from .training import reached, trainings


@dataclass(frozen=True, kw_only=True)
class Learning:
    """The trainings of one cell by one recipe, by their seeds; of one seed the last."""

    spec: RunSpec
    recipe: Recipe
    by_seed: Mapping[int, TrainingFacts]

    @property
    def task(self) -> tuple[object, ...]:
        """What has to be alike for two of these to be about the same thing."""
        spec = self.spec
        model = (spec.workload, spec.size, str(spec.workload_options), spec.data, spec.init_from_sha256)
        return (*model, spec.precision, spec.optimizer.name, self.recipe.target)


def over_seeds(records: Iterable[Record]) -> list[Learning]:
    """The trainings among `records` that came to their end, those that differ by their seed alone together."""
    found: dict[tuple[str, str], dict[int, TrainingFacts]] = {}
    cells: dict[tuple[str, str], tuple[RunSpec, Recipe]] = {}
    for record, recipe, facts in trainings(records):
        spec = record.spec.model_copy(update={"seed": 0})
        key = (spec.cell_id, recipe.model_dump_json())
        cells[key] = (spec, recipe)
        found.setdefault(key, {})[record.spec.seed] = facts
    return [Learning(spec=cells[key][0], recipe=cells[key][1], by_seed=found[key]) for key in found]


def final_metric(learning: Learning) -> Estimate | None:
    """The monitored metric at the last validation, its mean over the seeds; None where one has none, or a nan."""
    last = [facts.evaluations[-1].metrics for facts in learning.by_seed.values() if facts.evaluations]
    values = [metrics[learning.recipe.monitor] for metrics in last]
    return mean(values) if len(values) == len(learning.by_seed) and not any(map(math.isnan, values)) else None


def samples_to_target(learning: Learning) -> dict[int, int]:
    """Samples trained on at the first validation that reached the target, by seed, of the trainings that did."""
    goals = {seed: reached(learning.recipe, facts) for seed, facts in learning.by_seed.items()}
    return {seed: goal.samples for seed, goal in goals.items() if goal}


def seconds_to_target(learning: Learning) -> Estimate | None:
    """Elapsed seconds at the first validation that reached the target, the mean of the trainings that did."""
    goals = [reached(learning.recipe, facts) for facts in learning.by_seed.values()]
    seconds = [goal.elapsed_seconds for goal in goals if goal]
    return mean(seconds) if seconds else None


def statistical_efficiency(learning: Learning, smallest: Learning) -> Estimate | None:
    """Samples to the target at the smallest batch over those here: the geometric mean over the seeds that both came
    there with. Below 1 a larger batch learns less from each sample.

    Source: Qiao et al. (2021, Pollux), where it is the progress per sample relative to a smaller batch.
    """
    here, there = samples_to_target(learning), samples_to_target(smallest)
    ratios = [there[seed] / here[seed] for seed in sorted(here.keys() & there.keys()) if here[seed]]
    return geometric_mean(ratios) if ratios else None


def smallest_batch(learning: Learning, others: Sequence[Learning]) -> Learning:
    """That of the same task with the smallest global batch, of equals the fewest ranks, then the unscaled rate."""
    alike = [other for other in others if other.task == learning.task]
    return min(alike, key=lambda one: (one.spec.global_batch, one.spec.world_size, one.recipe.rule != "none"))
