"""The study of learning rates: what it plans, and what its table says of made records."""

from __future__ import annotations

import pytest
from scipy import stats

from scalebench.records.record import Record
from scalebench.records.training import Evaluation
from tests.benchmarks.learning_rates import SAMPLES, planned, samples_to_target, study, table, with_spread
from tests.unit.factory import make_spec, make_training


def test_every_training_sees_as_many_samples_at_the_rate_of_its_rule() -> None:
    pytest.importorskip("sklearn")
    found = study("adamw", 1)
    assert len(found) == 7
    assert {recipe.steps * spec.global_batch for spec, recipe in found} == {SAMPLES}
    assert {recipe.val_every * spec.global_batch for spec, recipe in found} == {320}
    rates = {(spec.world_size, recipe.rule): spec.optimizer.learning_rate for spec, recipe in found}
    one = rates[1, "none"]
    assert (rates[4, "none"], rates[4, "linear"], rates[4, "sqrt"]) == pytest.approx((one, 4 * one, 2 * one))
    recipe, spec = planned("sgd", 2, "sqrt", 3)
    assert (spec.seed, spec.optimizer.momentum) == (3, 0.9)
    assert spec.optimizer.learning_rate == pytest.approx(recipe.base_learning_rate * 2**0.5)


def trained(seed: int, accuracies: list[float]) -> Record:
    made = make_training(make_spec(world_size=2, seed=seed), rule="sqrt")
    assert made.training is not None
    found = [
        Evaluation(step=n, samples=10 * n, elapsed_seconds=n, seconds=0.1, metrics={"accuracy": value, "loss": 0.5})
        for n, value in enumerate(accuracies, 1)
    ]
    return made.model_copy(update={"training": made.training.model_copy(update={"evaluations": found})})


def test_the_table_says_how_many_reached_the_target_and_how_far_seeds_differ() -> None:
    records = [trained(0, [0.9, 0.97, 0.96]), trained(1, [0.98, 0.99, 0.98]), trained(2, [0.5, 0.6, 0.7])]
    assert [samples_to_target(record) for record in records] == [20, 10, None]
    row = [cell.strip() for cell in table(records).splitlines()[-1].strip("|").split("|")]
    assert row[:2] == ["2", "sqrt"]
    assert row[-1] == "2 of 3"
    low, high = stats.t.interval(0.95, 2, loc=88.0, scale=stats.sem([96.0, 98.0, 70.0]))
    mean, half = map(float, row[4].split(" ± "))
    assert (mean, half) == (88.0, pytest.approx((high - low) / 2, abs=0.005))
    assert with_spread([3.0], 1) == "3.0"
