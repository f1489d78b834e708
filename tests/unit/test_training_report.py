"""What a report says of trainings, against numbers worked out by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from scalebench.analysis.training import (
    best,
    durable_seconds,
    ranks_busy,
    reached,
    stall_seconds,
    trainings,
    validation_share,
)
from scalebench.recipe import Target
from scalebench.reporting.report import write_report
from scalebench.reporting.training import training_table
from scalebench.reporting.training_plots import curves, families, told_apart
from scalebench.training.pictures import Sheets
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
    assert durable_seconds(facts) == pytest.approx(1.0)


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
    assert (row["test"], row["validated by"], row["ranks busy"]) == ("loss 1.250 (step 12)", "all ranks", "100.0%")
    assert (row["validation"], row["checkpoint s"], row["load s"]) == ("3.8%", "0.2000", "0.5000")
    assert row["durable s"] == "1.000"
    assert training_table([make_record(make_spec(), 1.0)]) is None


def test_ranks_that_wait_are_not_busy() -> None:
    ((_, _, facts),) = trainings([make_training(make_spec())])
    seconds = [[0.5, 0.5], [1.0, 0.5]]
    found = [
        one.model_copy(update={"rank_seconds": each}) for one, each in zip(facts.evaluations, seconds, strict=False)
    ]
    assert ranks_busy(facts.model_copy(update={"evaluations": found})) == pytest.approx(2.5 / 3.0)
    alone = [one.model_copy(update={"rank_seconds": [0.4, 0.0, 0.0, 0.0]}) for one in facts.evaluations]
    assert ranks_busy(facts.model_copy(update={"evaluations": alone})) == pytest.approx(0.25)
    assert ranks_busy(facts.model_copy(update={"evaluations": []})) is None


def test_the_report_shows_curves_and_what_was_generated(tmp_path: Path) -> None:
    """The first sheet and the last, copied; one that is gone is left out."""
    home = tmp_path / "results" / "s"
    home.mkdir(parents=True)
    pictures = torch.arange(2 * 3 * 8 * 8).remainder(256).reshape(2, 3, 8, 8).byte()
    kept = [Sheets(records=home, name="samples/a").keep(pictures, step) for step in (11, 12, 13)]
    made = make_training(make_spec())
    assert made.training is not None
    record = made.model_copy(update={"training": made.training.model_copy(update={"sheets": kept})})
    text = write_report([record], tmp_path / "report", homes={record.session: home}).read_text()
    shown = re.findall(r"!\[([^]]*)\]\(([^)]*)\)", text)
    assert [title.partition(":")[0] for title, _ in shown] == [
        "Curves", "2 samples after 11 steps", "2 samples after 13 steps",
    ]  # fmt: skip
    assert all((tmp_path / "report" / name).stat().st_size for _, name in shown)
    assert "samples after" not in write_report([record], tmp_path / "elsewhere").read_text()


def test_curves_of_one_model_lie_over_each_other_and_say_what_differs() -> None:
    """Seeds share a name; another rule has another."""
    made = [
        make_training(make_spec(world_size=ranks, seed=seed), rule=rule).model_copy(update={"session": rule})
        for ranks, rule in ((1, "none"), (2, "none"), (2, "sqrt"))
        for seed in (0, 1)
    ]
    other = make_training(make_spec(workload="jit", size="tiny"))
    found = families([*made, other])
    assert [len(family) for family in found.values()] == [6, 1]
    together, alone = found.values()
    expected = ["1 process, rule none", "2 processes, rule none", "2 processes, rule sqrt"]
    assert told_apart(together) == [name for name in expected for _ in range(2)]
    assert told_apart(alone) == ["validation"]
    plot = curves("gpt", together)
    assert plot is not None
    (axis,) = plot.axes
    assert len(axis.lines) == 6
    assert axis.lines[0].get_xdata().tolist() == [8 * 11, 8 * 12, 8 * 13]  # type: ignore[union-attr]
    shown = curves("jit", alone)
    assert shown is not None
    steps = next(line for line in shown.axes[0].lines if line.get_label() == "each step")
    batch = alone[0][0].spec.global_batch
    assert steps.get_xdata().tolist() == [batch * step for step in range(8, 14)]  # type: ignore[union-attr]
