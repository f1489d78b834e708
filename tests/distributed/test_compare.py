"""Regressions really put into real runs, each of which is caught and named; and both sides measured in turn."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from statistics import geometric_mean

import pytest

from scalebench.records.store import load_records
from tests.distributed.own_net import parameters, write_net
from tests.processes import ROOT, python

pytestmark = pytest.mark.distributed
REGRESSED = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'data' / 'regressed'}"}
TINY = """
data = "synthetic"
precision = "fp32"
warmup_steps = 2
set.workload.num_layers = 1
set.workload.hidden_size = 32
set.workload.num_heads = 2
set.workload.context_length = 16
micro_batch = 1
"""
CONFIG = f'[run]\nstrategy = "regressed_ddp"\ngpus = 2\nsteps = 8\nrepeats = 2\nbaseline = false\nparity = true{TINY}'


def scalebench(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "scalebench", *arguments, cwd=folder, **REGRESSED, **variables)


def measured(folder: Path, name: str, regression: str = "") -> str:
    (folder / "ci.toml").write_text(CONFIG)
    parity = "--parity" if regression in ("", "divisor") else "--no-parity"
    scalebench(folder, "run", "--config", "ci.toml", parity, "--results", name, REGRESSION=regression)
    return name


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    measured(folder, "base")
    return folder


@pytest.mark.parametrize(
    ("regression", "told"),
    [
        pytest.param("leak", "peak memory", marks=pytest.mark.slow),
        ("divisor", "parity failed: it no longer trains the same model as single"),
        pytest.param("precision", "float16", marks=pytest.mark.slow),
    ],
)
def test_an_injected_regression_is_caught_and_named(baseline: Path, regression: str, told: str) -> None:
    found = scalebench(baseline, "compare", "base", measured(baseline, regression, regression))
    assert found.returncode == 1, found
    first = found.stdout.splitlines()[0]
    assert first.startswith(
        ("1 regression: regressed_ddp, 2 ranks, fp32: ", "2 regressions: regressed_ddp, 2 ranks, fp32: ")
    )
    assert told in first


@pytest.mark.slow
def test_without_one_nothing_is_found(baseline: Path) -> None:
    found = scalebench(baseline, "compare", "base", measured(baseline, "sound"))
    assert found.returncode == 0, found
    assert "1 session" in found.stdout  # one session tells nothing of how sessions differ


LIVE = f'[run]\nstrategy = "regressed_ddp"\ngpus = 1\nsteps = 6\ndiagnostics = false{TINY}'


def steps_of(folder: Path) -> dict[int, float]:
    """Mean step of each repeat, without the two that refill the pipeline after a pause, from the ends of its steps."""
    found = {}
    for record in load_records(folder).records:
        assert record.window is not None
        first = record.window.first_step + record.window.refill_steps
        ends = record.ranks[0].step_end_ns
        found[record.repeat] = (ends[-1] - ends[first - 1]) / (len(ends) - first)
    return found


def test_both_sides_are_measured_in_turn_and_what_was_stopped_goes_on(tmp_path: Path) -> None:
    """What it says is what its records say; given again, nothing more is measured."""
    for name, delay in (("a", ""), ("b", "set.strategy.delay = 3.0\n")):
        (tmp_path / f"{name}.toml").write_text(LIVE + delay)
    typed = ["compare", "--live", "a.toml", "b.toml", "--pairs", "4", "--results", "live", "--format", "json"]
    first = scalebench(tmp_path, *typed)
    told = json.loads(first.stdout)
    step = next(row for row in told["verdicts"] if row["metric"] == "step")
    a, b = (steps_of(tmp_path / "live" / side) for side in "ab")
    assert list(a) == list(b) == list(range(int(step["units"])))
    assert step["units"] == 4
    assert step["ratio"] == pytest.approx(geometric_mean(b.values()) / geometric_mean(a.values()), rel=1e-6)
    assert first.returncode == int(any(row["regression"] for row in told["verdicts"]))
    again = scalebench(tmp_path, *typed)
    assert (again.returncode, json.loads(again.stdout)) == (first.returncode, told)
    assert steps_of(tmp_path / "live" / "b") == b


OWN = """
[run]
workload = "net.py:make"
strategy = "ddp"
gpus = 1
precision = "fp32"
warmup_steps = 2
steps = 4
micro_batch = 4
diagnostics = false
"""


def test_two_source_trees_of_ones_own_project(tmp_path: Path) -> None:
    """Each side measures its own tree's model, with what that imports; typed in one of them, as in CI."""
    for tree, width in (("base", 8), ("change", 16)):
        write_net(tmp_path / tree, width)
        (tmp_path / tree / "ci.toml").write_text(OWN)
    trees = ["--checkouts", "../base", ".", "--pairs", "4", "--results", "live", "--format", "json"]
    found = scalebench(tmp_path / "change", "compare", "--live", "ci.toml", "ci.toml", *trees)
    assert found.returncode == 1, found
    told = {row["metric"]: row for row in json.loads(found.stdout)["verdicts"]}
    assert [told["parameters"][side] for side in ("baseline", "new")] == [parameters(8), parameters(16)]
    assert told["parameters"]["regression"]
    assert told["step"]["units"] == 4
