"""What a report says of trainings, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from scalebench.analysis.training import best, reached, stall_seconds, trainings, validation_share
from scalebench.recipe import Target
from scalebench.reporting.training import training_table
from tests.unit.factory import make_record, make_spec, make_training

TARGET = Target(metric="loss", value=1.2, higher=False)


def test_figures_of_a_training() -> None:
    ((_, recipe, facts),) = trainings([make_training(make_spec(), target=TARGET), make_record(make_spec(), 1.0)])
    goal = reached(recipe, facts)
    assert goal is not None
    assert (goal.step, goal.elapsed_seconds, goal.samples) == (12, 15.0, 96)
    assert best(recipe, facts) == goal
    assert validation_share(facts) == pytest.approx(3 * 0.25 / 20)
    assert stall_seconds(facts) == pytest.approx(0.2)


def test_what_is_no_number_reaches_nothing_and_is_never_best() -> None:
    ((_, recipe, facts),) = trainings([make_training(make_spec(), [math.nan, 3.0, math.nan], target=TARGET)])
    assert reached(recipe, facts) is None
    found = best(recipe, facts)
    assert found is not None
    assert found.metrics["loss"] == 3.0


def test_a_row_per_training() -> None:
    made = training_table([make_training(make_spec(), target=TARGET), make_record(make_spec(), 1.0)])
    assert made is not None
    (row,) = made.frame.to_dict("records")
    assert (row["steps"], row["best"], row["s to target"]) == ("13", "loss 1.000 (step 12)", "15.00")
    assert (row["validation"], row["checkpoint s"], row["load s"]) == ("3.8%", "0.2000", "0.5000")
    assert training_table([make_record(make_spec(), 1.0)]) is None
