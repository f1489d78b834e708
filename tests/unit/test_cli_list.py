"""What `scalebench list` says against what the strategies do."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from scalebench import strategies, workloads
from scalebench.cli.list import list_, precision_rows, strategy_rows, workload_rows
from scalebench.strategies.config import PRECISIONS, TrainConfig
from scalebench.strategies.construct import compute_dtype, parameter_dtype
from scalebench.strategies.deepspeed import DeepSpeed
from scalebench.strategies.fsdp import FSDP
from scalebench.strategies.loss_scaling import LossScaler
from scalebench.strategies.precision_table import AUTOCAST, ENGINE, PRECISION_TABLE, SHARDED, Meaning

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
IDS = [f"{meaning.precision}-{meaning.family}" for meaning in PRECISION_TABLE]


def test_every_strategy_stands_beside_its_names_elsewhere() -> None:
    rows = {row[0]: row for row in strategy_rows()}
    assert set(strategies.BUILTIN) <= set(rows)
    assert "ddp_find_unused_parameters_true" in rows["ddp_find_unused_parameters_true"][2]
    assert "fully_shard" in rows["fsdp"][4]
    assert "MULTI_GPU" in rows["ddp"][3]
    assert all(all(cell for cell in row) for row in rows.values())


def test_every_workload_stands_with_its_sizes_and_options() -> None:
    rows = list(workload_rows())
    assert {(row[0], row[1]) for row in rows} == {
        (name, size) for name in workloads.FAMILIES for size in workloads.size_names(name)
    }
    assert "vocab_size=50304" in next(row[-1] for row in rows if row[1] == "124m")


def test_the_list_is_one_line_a_row_where_there_is_no_terminal() -> None:
    for what, rows in (
        ("strategies", strategy_rows()),
        ("workloads", workload_rows()),
        ("precisions", precision_rows()),
    ):
        done = CliRunner().invoke(list_, [what])
        assert done.exit_code == 0
        assert len(list(csv.reader(done.output.splitlines()))) == len(list(rows)) + 1
        assert "…" not in done.output


def test_every_precision_is_explained_for_every_family_that_runs_it() -> None:
    explained = {(meaning.precision, meaning.family) for meaning in PRECISION_TABLE}
    refused = {("fp16-true", ENGINE)}
    assert explained == {(p, f) for p in PRECISIONS for f in (AUTOCAST, SHARDED, ENGINE)} - refused
    for stage in (1, 2, 3):
        strategy = DeepSpeed(stage=stage)
        assert strategy.unsupported_reason(TrainConfig(precision="fp16-true"), "cuda", 2) is not None
        assert strategy.unsupported_reason(TrainConfig(precision="bf16-true"), "cuda", 2) is None


@pytest.mark.parametrize("meaning", PRECISION_TABLE, ids=IDS)
def test_the_table_says_what_the_strategies_do(meaning: Meaning) -> None:
    config = TrainConfig(precision=meaning.precision)
    assert DTYPES[meaning.compute] == compute_dtype(config)
    if meaning.family == ENGINE:
        plan = DeepSpeed(stage=2).plan(config, 2)
        assert meaning.parameters == plan.parameter_dtype
        assert (meaning.master == "fp32") == plan.restores_masters
        assert (meaning.casting == "engine-cast") == (plan.engine_dtype is not None and config.mixed)
        assert plan.json.get("communication_data_type", meaning.parameters) == meaning.reduce
    else:
        assert DTYPES[meaning.parameters] == parameter_dtype(config)
        assert (meaning.loss_scaling == "dynamic") == LossScaler(config, torch.device("cpu")).is_enabled()
        assert meaning.casting in (None, strategies.create("ddp").casting, FSDP().casting)
        assert (meaning.casting is None) != config.mixed
    if meaning.family == AUTOCAST:
        plan = DeepSpeed(stage=0).plan(config, 2)
        assert (plan.parameter_dtype, plan.engine_dtype) == (meaning.parameters, None)
        assert plan.autocast == (meaning.compute if config.mixed else None)


def test_the_page_in_docs_is_what_the_code_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "strategies.md"
    result = CliRunner().invoke(list_, ["--markdown"])
    assert page.read_text() == result.stdout, "run `make docs`"
