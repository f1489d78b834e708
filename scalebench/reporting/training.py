"""Trainings as tables: what each came to, how soon, and what looking at itself cost it; and several seeds together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scalebench.analysis.learning import (
    Learning,
    final_metric,
    over_seeds,
    samples_to_target,
    seconds_to_target,
    smallest_batch,
    statistical_efficiency,
)
from scalebench.analysis.training import (
    best,
    checkpoint_bytes,
    durable_seconds,
    ranks_busy,
    reached,
    stall_seconds,
    trainings,
    validation_share,
)
from scalebench.recipe import Recipe
from scalebench.records.record import Record
from scalebench.records.training import Evaluation, Test, TrainingFacts
from scalebench.spec import RunSpec
from scalebench.stats.intervals import mean

from .table import RANK_WORDS, Table, table
from .text import UNKNOWN, figure, known, percent, size, times, with_interval

NOTE = (
    "One training each: how far two differ by chance only several seeds tell. Times are of whole trainings, with their "
    "validations and checkpoints, without start-up."
)
SEEDS_NOTE = (
    "Means over seeds with Student's 95% interval. Samples and seconds to the target are of the trainings that came "
    "there; statistical efficiency is over the smallest batch of the same model, precision and target, by seeds that "
    "both came there with."
)


def training_table(records: Iterable[Record]) -> Table | None:
    """A row per training among `records`."""
    return table("Trainings", [_row(*found) for found in trainings(records)], [NOTE])


def _row(record: Record, recipe: Recipe, facts: TrainingFacts) -> dict[str, str]:
    spec, goal, target = record.spec, reached(recipe, facts), recipe.target
    items = record.workload.items_per_sample if record.workload else 1
    return {
        **_cell(spec),
        "learning rate": f"{spec.optimizer.learning_rate:g} ({recipe.rule}, {recipe.schedule})",
        "seed": str(spec.seed),
        "steps": f"{facts.first_step + len(record.ranks[0].losses):,}",
        "ended": facts.ended,
        "last": _metrics(facts.evaluations[-1] if facts.evaluations else None),
        "best": _metrics(best(recipe, facts), recipe.monitor),
        "test": _metrics(facts.test),
        "target": f"{target.metric} {target.value:g}" if target else "none",
        "s to target": known(goal.elapsed_seconds if goal else None),
        "items to target": known(goal.samples * items if goal else None),
        "validation": known(validation_share(facts), percent),
        "validated by": "all ranks" if recipe.validate_on == "all" else "rank 0",
        "ranks busy": known(ranks_busy(facts), percent),
        "checkpoint s": known(stall_seconds(facts)),
        "durable s": known(durable_seconds(facts)),
        "checkpoint": known(checkpoint_bytes(facts), size),
        "load s": known(facts.load_seconds),
    }


def seeds_table(records: Iterable[Record]) -> Table | None:
    """A row per cell and recipe; None where no two trainings differ by their seed alone."""
    found = over_seeds(records)
    if all(len(learning.by_seed) < 2 for learning in found):
        return None
    return table("Trainings over seeds", [_seeds_row(learning, found) for learning in found], [SEEDS_NOTE])


def _seeds_row(learning: Learning, others: Sequence[Learning]) -> dict[str, str]:
    spec, recipe, came = learning.spec, learning.recipe, samples_to_target(learning)
    return {
        **_cell(spec),
        "learning rate": f"{spec.optimizer.learning_rate:.3g} ({recipe.rule}, {recipe.schedule})",
        "seeds": str(len(learning.by_seed)),
        "monitored": recipe.monitor,
        "final": with_interval(final_metric(learning)),
        "reached": f"{len(came)} of {len(learning.by_seed)}" if recipe.target else UNKNOWN,
        "samples to target": with_interval(mean(list(came.values())) if came else None),
        "s to target": with_interval(seconds_to_target(learning)),
        "statistical efficiency": with_interval(
            statistical_efficiency(learning, smallest_batch(learning, others)), times
        ),
    }


def _cell(spec: RunSpec) -> dict[str, str]:
    return {
        "workload": f"{spec.workload} {spec.size}",
        RANK_WORDS[0 if spec.device == "cuda" else 1]: str(spec.world_size),
        "precision": spec.precision,
        "strategy": spec.strategy,
        "global batch": str(spec.global_batch),
    }


def _metrics(evaluation: Evaluation | Test | None, only: str | None = None) -> str:
    """`loss 0.1599, accuracy 0.9444 (step 400)`."""
    if evaluation is None:
        return "n/a"
    shown = {name: value for name, value in evaluation.metrics.items() if only in (None, name)}
    figures = ", ".join(f"{name} {figure(value) if value == value else 'nan'}" for name, value in shown.items())
    return f"{figures} (step {evaluation.step})"
