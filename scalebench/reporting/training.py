"""Trainings as a table: what each came to, how soon, and what looking at itself cost it."""

from __future__ import annotations

from collections.abc import Iterable

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

from .table import RANK_WORDS, Table, table
from .text import figure, known, percent, size

NOTE = (
    "One training each: how far two differ by chance only several seeds tell. Times are of whole trainings, with their "
    "validations and checkpoints, without start-up."
)


def training_table(records: Iterable[Record]) -> Table | None:
    """A row per training among `records`."""
    return table("Trainings", [_row(*found) for found in trainings(records)], [NOTE])


def _row(record: Record, recipe: Recipe, facts: TrainingFacts) -> dict[str, str]:
    spec, goal, target = record.spec, reached(recipe, facts), recipe.target
    items = record.workload.items_per_sample if record.workload else 1
    return {
        "workload": f"{spec.workload} {spec.size}",
        RANK_WORDS[0 if spec.device == "cuda" else 1]: str(spec.world_size),
        "precision": spec.precision,
        "strategy": spec.strategy,
        "global batch": str(spec.global_batch),
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


def _metrics(evaluation: Evaluation | Test | None, only: str | None = None) -> str:
    """`loss 0.1599, accuracy 0.9444 (step 400)`."""
    if evaluation is None:
        return "n/a"
    shown = {name: value for name, value in evaluation.metrics.items() if only in (None, name)}
    figures = ", ".join(f"{name} {figure(value) if value == value else 'nan'}" for name, value in shown.items())
    return f"{figures} (step {evaluation.step})"
