"""What is planned for a GPU: every feasible pair occurs, each cell fits and is supported, and parts keep their time."""

from __future__ import annotations

import itertools
import json
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebench import strategies, workloads
from scalebench.machine import Machine
from scalebench.scheme import model_of, scheme_of
from scalebench.spec import RunSpec
from scalebench.theory.memory import memory
from tests.gpu import part
from tests.gpu.pairwise import Cell, cover, feasible_cells
from tests.gpu.plan import (
    AXES,
    OVERHEAD_STRATEGIES,
    STRATEGIES,
    Task,
    cells,
    overhead_specs,
    spec_of,
    tasks,
    worth_a_run,
)

H200 = Machine(device="cuda", gpu_count=1, cores=16, bf16_native=True, gpu_names=("NVIDIA H200",))
ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 141e9
HEADROOM = 0.9


def occur_together(found: list[Cell], first: tuple[str, str], second: tuple[str, str]) -> bool:
    return any(cell[first[0]] == first[1] and cell[second[0]] == second[1] for cell in found)


def test_every_feasible_pair_of_values_is_covered_by_about_sixty_cells() -> None:
    everything, chosen = feasible_cells(AXES, worth_a_run), list(cells())
    assert 50 <= len(chosen) <= 70
    assert f"| {len(chosen)} cells:" in (ROOT / "docs" / "gpu.md").read_text()
    for one, other in itertools.combinations(AXES, 2):
        for values in itertools.product(AXES[one], AXES[other]):
            first, second = (one, values[0]), (other, values[1])
            assert occur_together(chosen, first, second) == occur_together(everything, first, second), (first, second)
    assert {value for cell in chosen for value in cell.values()} == {value for axis in AXES.values() for value in axis}


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(0, 10))
def test_any_cover_has_every_pair_and_no_cell_in_vain(sizes: list[int], forbidden: int) -> None:
    axes = {f"axis{index}": [str(value) for value in range(size)] for index, size in enumerate(sizes)}
    everything = feasible_cells(axes, lambda cell: sum(map(int, cell.values())) != forbidden)
    chosen = cover(everything)
    for one, other in itertools.combinations(axes, 2):
        for values in itertools.product(axes[one], axes[other]):
            first, second = (one, values[0]), (other, values[1])
            assert occur_together(chosen, first, second) == occur_together(everything, first, second)
    assert all(cell in everything for cell in chosen)
    assert len(chosen) <= len(everything)


def refusal(spec: RunSpec) -> str | None:
    if "deepspeed" in spec.strategy:
        pytest.importorskip("deepspeed")
    strategy = strategies.create(spec.strategy, spec.strategy_options)
    return strategy.unsupported_reason(spec.train_config(), spec.device, spec.world_size)


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: "-".join(cell.values()).replace(" ", "_"))
def test_each_cell_is_supported_on_one_gpu_and_fits_by_theory(cell: Cell) -> None:
    spec = spec_of(cell, H200)
    assert (spec.device, spec.world_size, spec.tf32) == ("cuda", 1, cell["precision"] == "tf32")
    assert refusal(spec) is None
    workload = workloads.create(spec.workload, spec.size, spec.workload_options)
    model = model_of(workload)
    scheme = scheme_of(spec, model)
    assert scheme is not None
    peak = memory(model, scheme, workload.saved_activations(), spec.micro_batch).peak
    assert peak is None or peak < HEADROOM * MEMORY_BYTES


def test_what_wrappers_cost_is_asked_of_steps_that_fit_and_of_every_family() -> None:
    specs = overhead_specs(H200, stand_in=False)
    assert [spec.strategy for spec in specs] == ["single", *OVERHEAD_STRATEGIES]
    assert set(OVERHEAD_STRATEGIES) < set(STRATEGIES)
    assert {(spec.size, spec.precision, spec.world_size) for spec in specs} == {("1.3b", "bf16", 1)}
    assert all(refusal(spec) is None for spec in specs)


def quick(name: str, code: str, resumes: bool = False, seconds: float = 0.0) -> Task:
    return Task(name=name, command=(sys.executable, "-c", code), seconds=seconds, resumes=resumes)


def carry_out(out: Path, monkeypatch: pytest.MonkeyPatch, planned: list[Task], seconds: float = 30.0) -> int:
    monkeypatch.setattr(part, "LEAVING_SECONDS", 1.0)
    monkeypatch.setattr(part, "tasks", lambda *args, **kwargs: planned)
    return part.carry_out("A", out, stand_in=True, seconds=seconds, nanogpt=None)


MARK = "open('{folder}/ran', 'a').write('%s')"


def test_what_has_ended_is_not_run_again_even_where_only_the_archive_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = [quick("one", MARK % 1), quick("two", MARK % 2 + "; raise SystemExit(3)")]
    assert carry_out(tmp_path / "a", monkeypatch, planned) == 0, "all of it has been done, well or not"
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "part-A.tar.gz").rename(tmp_path / "b" / "part-A.tar.gz")
    assert carry_out(tmp_path / "b", monkeypatch, [*planned, quick("three", MARK % 3)]) == 0
    assert (tmp_path / "b" / "part-A" / "ran").read_text() == "123"
    with tarfile.open(tmp_path / "b" / "part-A.tar.gz") as tar:
        assert "part-A/tasks/three.json" in tar.getnames()


def test_a_task_that_outlasts_the_part_is_ended_and_goes_on_only_if_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = MARK % "x" + "; import time; time.sleep(60)"
    planned = [quick("later", MARK % "l", seconds=100.0), quick("long", waits, resumes=True)]
    assert carry_out(tmp_path, monkeypatch, planned, seconds=3.0) == 3
    note = json.loads((tmp_path / "part-A" / "tasks" / "long.json").read_text())
    assert note["code"] is None
    assert not (tmp_path / "part-A" / "tasks" / "later.json").exists(), "there was no time to begin it"
    known = part.notes_in(tmp_path / "part-A")
    assert [task.name for task in part.unfinished(planned, tmp_path / "part-A")] == ["later", "long"]
    assert part.unfinished([quick("long", waits)], tmp_path / "part-A") == []
    assert list(known) == ["long"]


def test_parts_are_made_of_tasks_whose_names_differ() -> None:
    names = [task.name for letter in ("A", "B", "C") for task in tasks(letter, nanogpt=Path("model.py"))]
    assert len(names) == len(set(names)) > 10
    assert "nanogpt" not in [task.name for task in tasks("B")]
