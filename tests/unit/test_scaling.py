"""Speedup, efficiency and precision gain on records made by hand, and when there is none to give."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebench.analysis.cells import Cell, cells
from scalebench.analysis.precision import precision_gain
from scalebench.analysis.scaling import IS_BASELINE, against_itself, against_single
from scalebench.records.record import Record
from tests.unit.factory import ENVIRONMENT, make_rank, make_record, make_repeats, make_spec

seconds = st.floats(min_value=1e-3, max_value=10.0)


def cell(found: list[Cell], strategy: str, world_size: int) -> Cell:
    return next(c for c in found if c.spec.strategy == strategy and c.spec.world_size == world_size)


def series(single: float, many: float, world_size: int = 4, **fields: object) -> list[Record]:
    """`single` on 1 rank and `ddp` on `world_size`, of the given step times."""
    return [
        make_record(make_spec(strategy="single"), single),
        make_record(make_spec(strategy="ddp", world_size=world_size, **fields), many),
    ]


@given(seconds, seconds, st.sampled_from([2, 4, 8]))
def test_weak_efficiency_is_t1_over_tn(one: float, many: float, ranks: int) -> None:
    found = cells(series(one, many, ranks))
    figures = against_single(cell(found, "ddp", ranks), found)
    assert figures.efficiency.estimate is not None
    assert figures.speedup.estimate is not None
    assert figures.efficiency.estimate.value == pytest.approx(one / many, rel=1e-6)
    assert figures.speedup.estimate.value == pytest.approx(ranks * one / many, rel=1e-6)


@given(seconds, seconds, st.sampled_from([2, 4, 8]))
def test_strong_efficiency_is_t1_over_n_tn_at_an_equal_global_batch(one: float, many: float, ranks: int) -> None:
    records = [
        make_record(make_spec(strategy="single", scaling="strong", micro_batch=16), one),
        make_record(make_spec(strategy="single", scaling="strong", micro_batch=16 // ranks), 99.0),
        make_record(make_spec(world_size=ranks, scaling="strong", micro_batch=16 // ranks), many),
    ]
    found = cells(records)
    efficiency = against_single(cell(found, "ddp", ranks), found).efficiency.estimate
    assert efficiency is not None
    assert efficiency.value == pytest.approx(one / (ranks * many), rel=1e-6)


def test_the_strategy_on_one_rank_is_the_second_baseline() -> None:
    found = cells([*series(0.010, 0.016), make_record(make_spec(strategy="ddp"), 0.012)])
    four = cell(found, "ddp", 4)
    own, single = against_itself(four, found).efficiency.estimate, against_single(four, found).efficiency.estimate
    assert own is not None
    assert single is not None
    assert own.value == pytest.approx(0.75, rel=1e-6)
    assert single.value == pytest.approx(0.625, rel=1e-6)
    assert against_single(cell(found, "single", 1), found).speedup.reason == IS_BASELINE


@pytest.mark.parametrize(
    "other",
    [
        {"threads_per_rank": 2},
        {"cores_per_rank": 2},
        {"micro_batch": 8},
        {"accumulation": 2},
        {"size": "124m"},
        {"data": "text:/x"},
        {"precision": "bf16"},
        {"profile": "backend-default"},
        {"compile": True},
        {"seed": 1},
    ],
)
def test_a_baseline_that_differs_in_anything_else_is_none(other: dict[str, object]) -> None:
    found = cells(series(0.01, 0.01, **other))
    figures = against_single(cell(found, "ddp", 4), found)
    assert figures.speedup.estimate is None
    assert figures.efficiency.estimate is None
    assert "single" in (figures.speedup.reason or "")


@pytest.mark.parametrize(
    "fields",
    [
        {"oversubscribed": True},
        {"functional_only": "offload"},
        {"comparable": False, "not_comparable_because": ["debug"]},
        {"status": "oom"},
    ],
)
def test_runs_that_measure_nothing_have_no_efficiency(fields: dict[str, object]) -> None:
    spec = make_spec(strategy="ddp", world_size=4)
    found = cells([make_record(make_spec(strategy="single"), 0.01), make_record(spec, 0.01, **fields)])
    assert against_single(cell(found, "ddp", 4), found).efficiency.estimate is None
    assert cell(found, "ddp", 4).throughput is None


@pytest.mark.parametrize("key", ["cpu_model", "torch", "deepspeed", "cores"])
def test_another_machine_or_version_is_no_baseline(key: str) -> None:
    one, many = series(0.01, 0.01)
    one = one.model_copy(update={"environment": ENVIRONMENT | {key: "other"}})
    found = cells([one, many])
    assert against_single(cell(found, "ddp", 4), found).speedup.estimate is None


def test_threads_observed_otherwise_than_asked_are_no_baseline() -> None:
    ends = [10**7 * (k + 1) for k in range(6)]
    one = make_record(make_spec(strategy="single"), ranks=[make_rank(0, ends, threads=2)])
    found = cells([one, make_record(make_spec(world_size=4), 0.01)])
    assert against_single(cell(found, "ddp", 4), found).speedup.estimate is None


def test_intervals_propagate_on_logs() -> None:
    """Standard errors of independent logs add in squares; with equal ones Welch's degrees of freedom are 8."""
    spread = [0.010 * math.exp(d) for d in (-0.02, -0.01, 0.0, 0.01, 0.02)]
    records = make_repeats(make_spec(strategy="single"), spread) + make_repeats(make_spec(world_size=2), spread)
    found = cells(records)
    estimate = against_single(cell(found, "ddp", 2), found).efficiency.estimate
    assert estimate is not None
    assert estimate.high is not None
    error = math.sqrt(2 * (0.02**2 + 0.01**2) * 2 / 4 / 5)
    assert estimate.value == pytest.approx(1.0)
    assert math.log(estimate.high) == pytest.approx(2.306 * error, rel=1e-3)


def test_cells_of_different_sessions_are_compared_without_an_interval() -> None:
    records = make_repeats(make_spec(strategy="single"), [0.010, 0.011], session="a")
    records += make_repeats(make_spec(world_size=2), [0.010, 0.011], session="b")
    found = cells(records)
    comparison = against_single(cell(found, "ddp", 2), found).speedup
    assert comparison.estimate is not None
    assert comparison.estimate.low is None
    assert "another session" in (comparison.caution or "")


def test_only_sessions_that_measured_both_are_compared() -> None:
    """The second session's baseline was three times as slow and must not enter."""
    records = make_repeats(make_spec(strategy="single"), [0.010, 0.010], session="a")
    records += make_repeats(make_spec(world_size=2), [0.010, 0.010], session="a")
    records += make_repeats(make_spec(strategy="single"), [0.030, 0.030], session="b")
    found = cells(records)
    efficiency = against_single(cell(found, "ddp", 2), found).efficiency.estimate
    assert efficiency is not None
    assert efficiency.value == pytest.approx(1.0)


def test_failed_repeats_belong_to_the_cell_that_read_its_data() -> None:
    spec = make_spec(data="text:/x")
    good = make_record(spec, 0.01, repeat=1)
    assert good.workload is not None
    hashed = good.model_copy(update={"workload": good.workload.model_copy(update={"data_sha256": "ab"})})
    other = good.model_copy(update={"workload": good.workload.model_copy(update={"data_sha256": "cd"}), "repeat": 2})
    found = cells([make_record(spec, status="failed"), hashed, other])
    assert [len(c.records) for c in found] == [2, 1]


def test_a_strategy_that_cannot_run_belongs_with_those_that_read_the_data() -> None:
    read = make_record(make_spec(strategy="ddp"))
    assert read.workload is not None
    ran = read.model_copy(update={"workload": read.workload.model_copy(update={"data_sha256": "ab"})})
    refused = make_record(
        make_spec(strategy="fsdp", precision="bf16", world_size=2), status="unsupported", workload=None, window=None
    )
    assert [cell.data_sha256 for cell in cells([ran, refused])] == ["ab", "ab"]


def test_a_record_that_was_copied_counts_once() -> None:
    records = make_repeats(make_spec(), [0.010, 0.011])
    assert len(cells(records + records)[0].values(lambda record: record.wall_seconds)) == 2


def test_precision_gain_is_over_fp32_of_the_same_cell() -> None:
    records = [
        make_record(make_spec(precision="fp32"), 0.015, memory={"tensor_peak": 200}),
        make_record(make_spec(precision="bf16"), 0.010, memory={"tensor_peak": 110}),
        make_record(make_spec(precision="bf16", world_size=2), 0.010, memory={"tensor_peak": 110}),
    ]
    found = cells(records)
    fp32, bf16 = (next(c for c in found if (c.spec.world_size, c.precision) == (1, name)) for name in ("fp32", "bf16"))
    gain = precision_gain(bf16, found)
    assert gain is not None
    assert gain.speedup.estimate is not None
    assert gain.memory_ratio.estimate is not None
    assert gain.speedup.estimate.value == pytest.approx(1.5, rel=1e-6)
    assert gain.memory_ratio.estimate.value == pytest.approx(0.55)
    assert precision_gain(fp32, found) is None
    alone = precision_gain(cell(found, "ddp", 2), found)
    assert alone is not None
    assert alone.speedup.estimate is None
    assert "fp32" in (alone.speedup.reason or "")
