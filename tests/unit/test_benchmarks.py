"""The benchmarks' own arithmetic, against scipy and by hand; what they measure is measured by hand, not by CI."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from scalebench.records.record import Record
from tests.benchmarks import many_records, register_tokens, sweep_overhead, workload_parity
from tests.benchmarks.blocks import Launch, job_seconds
from tests.benchmarks.many_records import Point
from tests.benchmarks.pairs import Cell, Sample, schedule
from tests.benchmarks.sweep_overhead import Run, Side, Study
from tests.benchmarks.tables import cost_target, mean_ratio, start_target, verdict
from tests.unit.factory import make_parity, make_record, make_spec

RATIOS = [1.01, 0.98, 1.05, 1.02, 0.99]


def test_the_upper_bound_is_the_one_sided_95_percent_one_of_scipy() -> None:
    estimate = mean_ratio(RATIOS)
    logs = [math.log(ratio) for ratio in RATIOS]
    assert estimate.value == pytest.approx(stats.gmean(RATIOS))
    one_sided = stats.ttest_1samp(logs, math.log(estimate.high), alternative="less")
    assert one_sided.pvalue == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([0.99, 1.0, 1.01], "met"),
        ([1.19, 1.2, 1.21], "missed"),
        ([0.9, 1.0, 1.2], "not resolved"),
        ([1.0], "not resolved"),
    ],
)
def test_a_verdict_needs_a_bound_on_its_side_of_the_target(ratios: list[float], expected: str) -> None:
    assert verdict(mean_ratio(ratios), 1.05) == expected


def test_a_job_step_ends_with_its_last_rank() -> None:
    """Two ranks, warm-up of one step: boundaries 20, 30, 45 (ms) by hand."""
    ends = [[20_000_000, 28_000_000, 45_000_000], [19_000_000, 30_000_000, 44_000_000]]
    sample = Sample.of(5_000_000, 50_000_000, ends, [1.0] * 3, warmup=1)
    assert sample.step_seconds == pytest.approx(0.0125)
    assert sample.start_seconds == pytest.approx(0.015)
    assert sample.end_seconds == pytest.approx(0.005)


def test_a_block_lasts_from_the_last_start_to_the_last_end() -> None:
    assert job_seconds([(0, 95_000_000), (5_000_000, 100_000_000)]) == pytest.approx(0.095)


def test_each_side_goes_first_as_often_as_the_other_and_every_round_has_every_cell() -> None:
    cells = [Cell(strategy="ddp", ranks=1), Cell(strategy="fsdp", ranks=2), Cell(strategy="single", ranks=1)]
    planned = list(schedule(cells, 4, seed=3))
    assert Counter((cell, bare_first) for _, cell, bare_first in planned) == {
        (cell, first): 2 for cell in cells for first in (True, False)
    }
    assert [number for number, _, _ in planned] == sorted([0, 1, 2, 3] * 3)
    assert planned == list(schedule(cells, 4, seed=3)) != list(schedule(cells, 4, seed=4))


def test_a_drift_and_one_disturbed_block_leave_the_ratio_of_a_launch_alone() -> None:
    """A B B A on a clock that slows down steadily, scalebench being 2% slower; one quadruple is disturbed."""
    slow = [1.0 + 0.01 * index for index in range(12)]
    ours = [1.02 * slow[index] for index in range(12) if index % 4 in (0, 3)]
    theirs = [slow[index] for index in range(12) if index % 4 in (1, 2)]
    ours[2] *= 5
    launch = Launch(cell=Cell(strategy="ddp", ranks=2), tested=ours, reference=theirs)
    assert launch.ratio == pytest.approx(1.02)


def test_targets_are_those_of_the_cell() -> None:
    single, sharded = Cell.parse("single:1"), Cell.parse("deepspeed_stage_2:2")
    assert (cost_target(single), cost_target(sharded)) == (1.04, 1.06)
    assert (start_target(single), start_target(sharded)) == (0.15, 0.3)


def test_what_a_sweep_takes_beside_its_steps_counts_what_belongs_to_no_run() -> None:
    """Two runs of 10 s of steps in 11 s, and 2 s before the first: 4 s outside; a loop of twice 5 s outside."""
    run = {"sweep": Side(wall_seconds=11, step_seconds=10), "loop": Side(wall_seconds=15, step_seconds=10)}
    runs = [Run(name=name, steps=100, foreign_cores=0.1, **run) for name in "ab"]
    sweep, loop = Side(wall_seconds=24, step_seconds=20), Side(wall_seconds=30, step_seconds=20)
    study = Study(runs=runs, unsupported=["c"], sweep=sweep, loop=loop)
    assert "| before, between and after | 0 | 0.00 | 2.00 | 0.00 | 0.00 | n/a |" in sweep_overhead.table(study)
    assert "| all | 200 | 20.00 | 4.00 | 20.00 | 10.00 | 0.400 |" in sweep_overhead.table(study)
    said = sweep_overhead.verdicts(study)
    assert "0.400 of the loop's (target: at most 0.2): missed" in said
    assert "83.3% of the sweep's 24.0 s (target: at least 85%): missed" in said


def test_the_loop_launches_each_run_with_as_many_steps_as_it_had(tmp_path: Path) -> None:
    records = [make_record(make_spec(strategy="fsdp", world_size=2, precision="bf16", steps=7), order=3)]
    first, line = sweep_overhead.loop_lines(records, tmp_path)
    assert first == "set -e"
    for flag in ("--nproc-per-node=2", "--strategy=fsdp", "--precision=bf16", "--steps=9", "bare-3.json"):
        assert flag in line


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_exponent_is_that_of_the_growth(power: float) -> None:
    points = [
        Point(what="load", records=count, seconds=1.0, cpu_seconds=0.003 * count**power, peak_bytes=1)
        for count in (1250, 2500, 5000)
    ]
    assert many_records.exponent(points) == pytest.approx(power)
    assert ("met" if power == 1 else "missed") in many_records.verdict("load", points)


def test_multiplied_records_are_valid_and_each_run_is_another() -> None:
    templates = [make_record(make_spec(strategy=strategy)) for strategy in ("ddp", "fsdp")]
    copies = list(many_records.multiplied(templates, 40, np.random.default_rng(0)))
    assert len({(copy.session, copy.file_name) for copy in copies}) == 40
    assert all(Record.model_validate_json(copy.model_dump_json()) == copy for copy in copies)
    durations = [np.diff(copy.ranks[0].step_end_ns).mean() / 1e7 for copy in copies]
    assert np.mean(durations) == pytest.approx(1, abs=0.02)
    assert len(set(durations)) == 40


def test_a_parity_table_shows_the_worst_of_both_optimizers_and_what_failed() -> None:
    specs = [make_spec(workload=name, strategy="ddp") for name in ("gpt", "dit", "jit")]
    broken = make_record(specs[2], kind="parity", status="failed", reason="no memory")
    records = [make_parity(specs[0]), make_parity(specs[1], passed=False), broken]
    lines = workload_parity.table(records).splitlines()
    assert lines[2:] == [
        "| gpt | 2e-07 / 2e-06 / 3e-06 / n/a |",
        "| dit | FAILED 2e-07 / 2e-06 / 5e-01 / n/a |",
        "| jit | failed: no memory |",
    ]
    assert workload_parity.tolerances(records) == "Tolerance: 1e-06 / 1e-05 / 1e-04 / 1e-04."


def test_register_tokens_are_compared_within_their_round() -> None:
    """Rounds twice as slow as each other, with 4 tokens always 10% slower: the ratio knows no spread."""
    records = [
        make_record(make_spec(workload="dit", size="tiny", workload_options={"num_register_tokens": tokens}), **run)
        for tokens, slower in ((0, 1.0), (4, 1.1))
        for run in (
            {"step_seconds": slower * seconds, "repeat": repeat, "memory": {"tensor_peak": 2**20 + 1024 * tokens}}
            for repeat, seconds in enumerate((0.01, 0.02, 0.04))
        )
    ]
    lines = register_tokens.table(records).splitlines()
    assert lines[3].startswith("| 4 | 3 | 22 | 1.100 | 1.2")
    assert lines[3].endswith(" | 1.004 | 1.004 | n/a |")
    assert lines[4] == "| 8 | 0 | n/a | n/a | n/a | n/a | n/a | n/a |"
