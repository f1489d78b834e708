"""The benchmarks run, and compare like with like: `measure` raises when the losses of both sides disagree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import blocks, meters, pairs, tables
from tests.benchmarks.pairs import Cell

pytestmark = pytest.mark.distributed


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_2"])
def test_a_pair_trains_the_same_and_is_kept(tmp_path: Path, strategy: str) -> None:
    cell = Cell(strategy=strategy, ranks=2)
    study = pairs.measure([cell], 1, warmup=1, steps=4, seed=0, results=tmp_path, tell=lambda message: None)
    assert pairs.Study.read(tmp_path) == study
    (pair,) = study.pairs
    assert pair.scalebench.losses != []
    assert 0 < sum(pair.stages.values()) <= pair.scalebench.start_seconds
    assert f"| {strategy} | 2 | 1 |" in tables.startup_table(study.pairs)


@pytest.mark.parametrize("build", [blocks.both_loops, pytest.param(meters.both_sides, marks=pytest.mark.slow)])
def test_blocks_of_both_sides_alternate_in_one_process(tmp_path: Path, build: blocks.Build) -> None:
    cells = [Cell(strategy="single", ranks=1)]
    study = blocks.measure(cells, build, 2, 40, tmp_path, lambda message: None)
    assert blocks.Study.read(tmp_path) == study
    assert [(len(launch.tested), len(launch.reference)) for launch in study.launches] == [(8, 8)] * 2
    assert "| single | 1 | 2 |" in blocks.table(study.launches, "one", "other", tables.cost_target)
