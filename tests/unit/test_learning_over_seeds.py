"""What a report says of trainings that differ by their seed, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from scalebench.analysis.learning import (
    final_metric,
    over_seeds,
    samples_to_target,
    seconds_to_target,
    smallest_batch,
    statistical_efficiency,
)
from scalebench.recipe import Target
from scalebench.records.record import Record
from scalebench.reporting.training import seeds_table
from scalebench.stats.intervals import mean
from tests.unit.factory import make_spec, make_training

TARGET = Target(metric="loss", value=1.2, higher=False)
STUDENT_1, STUDENT_2 = 12.706, 4.303
"""From printed tables: two-sided 95%, one and two degrees of freedom."""


def made(ranks: int, seed: int, losses: list[float], session: str = "a") -> Record:
    record = make_training(make_spec(world_size=ranks, seed=seed), losses, target=TARGET)
    return record.model_copy(update={"session": session})


RECORDS = [
    made(2, 0, [2.0, 2.0, 1.0]),
    made(2, 1, [2.0, 2.0, 2.0]),
    made(1, 0, [9.0, 9.0, 9.0]),
    made(1, 0, [1.0, 1.1, 0.9], session="b"),
    made(1, 1, [2.0, 1.0, 1.1]),
]
"""Validated after 11, 12 and 13 steps of 8 samples, 1.25 s each; one rank's first seed was trained twice."""


def test_the_mean_of_three_with_students_interval() -> None:
    found = mean([1.0, 2.0, 6.0])
    assert (found.value, found.processes) == (3.0, 3)
    half = STUDENT_2 * math.sqrt(7.0) / math.sqrt(3)
    assert (found.low, found.high) == (pytest.approx(3 - half, abs=2e-3), pytest.approx(3 + half, abs=2e-3))
    assert (mean([2.0]).value, mean([2.0]).low) == (2.0, None)


def test_seeds_are_taken_together_and_the_last_of_one_counts() -> None:
    one, two = over_seeds(RECORDS)
    assert (two.spec.world_size, one.spec.world_size) == (2, 1)
    assert samples_to_target(one) == {0: 88, 1: 96}
    assert samples_to_target(two) == {0: 104}
    final = final_metric(one)
    assert final is not None
    assert final.value == pytest.approx(1.0)
    assert final.high == pytest.approx(1.0 + STUDENT_1 * 0.1, rel=1e-4)
    seconds = seconds_to_target(one)
    assert seconds is not None
    assert seconds.value == pytest.approx(1.25 * 11.5)


def test_a_larger_batch_learns_less_from_a_sample() -> None:
    found = over_seeds(RECORDS)
    one, two = found
    assert smallest_batch(two, found) is one
    efficiency = statistical_efficiency(two, one)
    assert efficiency is not None
    assert (efficiency.value, efficiency.processes) == (pytest.approx(88 / 104), 1), (
        "only one seed came there with both"
    )
    of_itself = statistical_efficiency(one, one)
    assert of_itself is not None
    assert of_itself.value == pytest.approx(1.0)


def test_another_precision_is_another_task() -> None:
    other = make_training(make_spec(precision="bf16"), target=TARGET)
    found = over_seeds([*RECORDS, other])
    assert smallest_batch(found[-1], found) is found[-1]


def test_a_row_per_cell_once_seeds_differ() -> None:
    shown = seeds_table(RECORDS)
    assert shown is not None
    one, two = shown.frame.to_dict("records")
    assert (two["reached"], two["samples to target"], two["statistical efficiency"]) == ("1 of 2", "104.0", "0.846×")
    assert (one["seeds"], one["reached"]) == ("2", "2 of 2")
    assert seeds_table(RECORDS[:1]) is None
