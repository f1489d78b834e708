"""`scalebench.load`: records on disk to a DataFrame."""

import re
from pathlib import Path

import pandas as pd
import pytest

import scalebench
from scalebench.analysis.frame import to_frame
from scalebench.errors import UserError
from scalebench.records.store import write_record
from tests.unit.factory import ITEMS_PER_SAMPLE, make_parity, make_record, make_spec


def test_one_row_per_record_with_units_contract_and_machine(tmp_path: Path) -> None:
    spec = make_spec(world_size=2, precision="bf16", strategy_options={"bucket_mb": 5})
    write_record(make_record(spec, 0.5, memory={"tensor_peak": 1000}), tmp_path / "s1")
    write_record(make_parity(make_spec(), started_at="2030-01-02"), tmp_path / "s1")
    write_record(
        make_record(make_spec(size="124m"), status="oom", reason="full", started_at="2030-01-03"), tmp_path / "s2"
    )
    frame = scalebench.load(tmp_path)
    assert list(frame["kind"]) == ["run", "parity", "run"]
    row = frame.iloc[0]
    assert row["throughput_items_per_second"] == pytest.approx(2 * 4 * ITEMS_PER_SAMPLE / 0.5)
    assert row["throughput_per_rank_items_per_second"] == pytest.approx(4 * ITEMS_PER_SAMPLE / 0.5)
    assert row["step_median_seconds"] == pytest.approx(0.5)
    assert row["tensor_peak_bytes"] == 1000
    assert (row["contract_compute"], row["precision"], row["world_size"]) == ("bfloat16", "bf16", 2)
    assert row["strategy_options"] == '{"bucket_mb": 5}'
    assert row["environment_torch"] == "2.13.0+cpu"
    assert frame["parity_passed"].tolist()[1] is True


def test_the_unknown_is_na_and_never_zero(tmp_path: Path) -> None:
    write_record(make_record(status="oom", reason="full"), tmp_path)
    row = scalebench.load(tmp_path).iloc[0]
    for column in ("throughput_items_per_second", "step_median_seconds", "allocated_peak_bytes", "contract_compute"):
        assert pd.isna(row[column]), column


def test_damaged_files_are_named_in_a_warning_and_left_out(tmp_path: Path) -> None:
    path = write_record(make_record(), tmp_path)
    (tmp_path / "broken.json").write_text(path.read_text()[:100])
    with pytest.warns(UserWarning, match=r"broken\.json"):
        frame = scalebench.load(tmp_path)
    assert len(frame) == 1


def test_a_missing_folder_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        scalebench.load(tmp_path / "nothing")


def test_an_empty_folder_is_an_empty_frame(tmp_path: Path) -> None:
    assert scalebench.load(tmp_path).empty


def test_the_columns_that_the_documentation_names_exist() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`([a-z0-9]+_[a-z_0-9]+)`", row[2])}
    record = make_record(make_spec(world_size=2), [0.5, 0.5, 0.1, 0.1, 0.1, 0.1])
    frame = to_frame([record])
    assert len(named) > 30
    assert named <= set(frame.columns)
    assert frame["window_steps"][0] == 4
    assert frame["window_seconds"][0] == pytest.approx(0.4)


def test_there_is_nothing_else_by_a_wrong_name() -> None:
    with pytest.raises(AttributeError, match="laod"):
        _ = scalebench.laod
