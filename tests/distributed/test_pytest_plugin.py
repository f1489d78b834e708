"""The pytest plugin in real pytest runs of its own with tiny real measurements; pytest-benchmark reads its JSON."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from scalebench.analysis.steps import window
from scalebench.records.store import load_records
from tests.distributed.own_net import parameters, write_net
from tests.processes import ROOT, python

pytestmark = pytest.mark.distributed
INSTALLED = any(point.name == "scalebench" for point in entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "scalebench.pytest_plugin")

MODULE = """
import pytest

TINY = {
    "data": "synthetic", "precision": "fp32", "warmup_steps": 2, "steps": 6, "micro_batch": 1, "device": "cpu",
    "set": {"workload": {"num_layers": 1, "hidden_size": 32, "num_heads": 2, "context_length": 16}},
}

@pytest.mark.scalebench(memory="2%")
def test_ddp(scalebench):
    measured = scalebench(strategy="ddp", gpus=1, repeats=2, **TINY)
    assert measured.throughput.value > 0
"""
FAILING = (
    MODULE
    + """
def test_fails_after_measuring(scalebench):
    scalebench(strategy="ddp", gpus=1, repeats=1, diagnostics=False, **TINY)
    assert False
"""
)


def run_pytest(folder: Path, module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_speed.py").write_text(module)
    return python("-m", "pytest", "-p", "no:cacheprovider", *PLUGIN, *arguments, cwd=folder, **variables)


def saved(folder: Path, name: str) -> list[dict[str, Any]]:
    file = next((folder / ".benchmarks").rglob(f"*_{name}.json"))
    found: list[dict[str, Any]] = json.loads(file.read_text())["benchmarks"]
    return found


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one pytest run saved what it measured."""
    folder = tmp_path_factory.mktemp("plugin")
    found = run_pytest(folder, FAILING, "--benchmark-save=base", "--benchmark-save-data")
    assert "1 failed, 1 passed" in found.stdout, found
    return folder


def test_measured_steps_reach_pytest_benchmark_to_the_last_bit(baseline: Path) -> None:
    """Its table, storage and compare command read them; a failed test's figures are no baseline."""
    (bench,) = saved(baseline, "base")
    records = sorted(load_records(baseline / "results" / "pytest").records, key=lambda r: r.started_at)
    steps = [float(s) for r in records[:2] if (w := window(r)) and w.step_seconds is not None for s in w.step_seconds]
    assert bench["stats"]["data"] == steps
    assert (bench["stats"]["rounds"], bench["extra_info"]["processes"]) == (12, 2)
    assert bench["extra_info"]["tokens_per_second"] > 0
    assert bench["extra_info"]["peak_memory_bytes"] > 0
    table = python("-m", "pytest_benchmark", "compare", cwd=baseline)
    assert (table.returncode, "test_ddp" in table.stdout) == (0, True), table


GATED = (
    MODULE
    + """
def test_that_the_saved_benchmarks_lack(scalebench):
    scalebench(strategy="ddp", gpus=1, repeats=2, **TINY)

def test_that_the_records_lack(scalebench):
    scalebench(strategy="ddp", gpus=1, repeats=1, **TINY | {"steps": 7})

@pytest.mark.scalebench(slower="5%")
def test_of_an_effect_that_cannot_be_shown(scalebench):
    scalebench(strategy="ddp", gpus=1, repeats=2, **TINY)
"""
)


def test_gates(baseline: Path) -> None:
    """What is the same passes; what has no baseline, or data that show nothing, does not."""
    compared = ("--benchmark-compare", "--benchmark-compare-fail=median:100000%")
    found = run_pytest(baseline, GATED, "--scalebench-baseline", "results/pytest", *compared)
    assert "2 failed, 2 passed, 3 errors" in found.stdout, found
    lacking = "test_speed.py::test_that_the_saved_benchmarks_lack is not in the baseline that --benchmark-compare names"
    assert lacking in found.stdout
    assert "ddp, 1 rank, fp32 is not in the baseline 'results/pytest'" in found.stdout
    assert "step inconclusive: the baseline has 1 session" in found.stdout


OWN = """
def test_net(scalebench):
    scalebench(
        workload="net.py:make", strategy="ddp", gpus=1, precision="fp32", steps=8, warmup_steps=2, micro_batch=4,
        diagnostics=False, device="cpu",
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "code"), [(8, 0), (16, 1)])
def test_another_source_tree_is_measured_in_turn(tmp_path: Path, width: int, code: int) -> None:
    for tree, of_tree in (("base", 8), ("change", width)):
        write_net(tmp_path / tree, of_tree)
    found = run_pytest(tmp_path / "change", OWN, "--scalebench-against", "../base")
    assert found.returncode == code, found
    assert (f"parameters {parameters(8)} -> {parameters(width)}, more" in found.stdout) == bool(code)


def test_the_documented_module_is_ten_lines_that_pytest_collects(tmp_path: Path) -> None:
    module = (ROOT / "docs" / "ci.md").read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in module.splitlines() if line.strip()]) <= 10
    found = run_pytest(tmp_path, module, "--collect-only", "-q", "--strict-markers")
    assert (found.returncode, "2 tests collected" in found.stdout) == (0, True), found


REFUSED = [
    ("""scalebench(strategy="ddp", gpus=1, steps="x")""", "", "--steps: expected a whole number"),
    ("""scalebench(strategy=["ddp", "fsdp"], gpus=1)""", "", "a test measures one cell, and 2 were asked for"),
    ("""scalebench(strategi="ddp")""", "", "unknown key 'strategi'"),
    ("""scalebench(strategy="ddp")""", """@pytest.mark.scalebench(memroy="2%")""", "Did you mean 'memory'?"),
    ("""scalebench(strategy="ddp")""", """@pytest.mark.scalebench(memory="2")""", "expected a share"),
]


def test_what_cannot_be_measured_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Nothing of it starts a rank."""
    tests = [f"{mark}\ndef test_{i}(scalebench):\n    {call}\n" for i, (call, mark, _) in enumerate(REFUSED)]
    found = run_pytest(tmp_path, "\n".join(["import pytest", *tests]))
    assert f"{len(REFUSED)} failed" in found.stdout, found
    for *_, told in REFUSED:
        assert told in found.stdout, found.stdout
    assert "Traceback" not in found.stdout
    assert not (tmp_path / "results").exists()


def test_a_run_without_the_fixture_imports_nothing_of_ours(tmp_path: Path) -> None:
    module = """
import sys

def test_it(benchmark):
    benchmark(lambda: None)
    ours = {name for name in sys.modules if name.split(".")[0] in ("scalebench", "torch", "numpy", "scipy", "pandas")}
    assert ours <= {"scalebench", "scalebench.pytest_plugin"}
"""
    found = run_pytest(tmp_path, module, "--benchmark-disable")
    assert found.returncode == 0, found


BESIDE = "def test_it(scalebench):\n    scalebench(strategy='ddp')\n"


@pytest.mark.parametrize("worker", [{"PYTEST_XDIST_WORKER": "gw0"}, {}], ids=["as-xdist-says-it", "xdist"])
def test_beside_other_tests_nothing_is_measured(tmp_path: Path, worker: dict[str, str]) -> None:
    if not worker:
        pytest.importorskip("xdist")
    found = run_pytest(tmp_path, BESIDE, *([] if worker else ["-n", "1"]), **worker)
    assert (found.returncode, "scalebench measures one thing at a time" in found.stdout) == (1, True), found
