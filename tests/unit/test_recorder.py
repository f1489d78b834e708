"""The Recorder: a loop that is not ours makes the same records, in the same tables."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import scalebench
from scalebench.analysis.steps import window
from scalebench.errors import UserError
from scalebench.integrations.loop import loop_of
from scalebench.records.environment import collect
from scalebench.records.record import Record
from scalebench.records.store import load_records, write_record
from scalebench.reporting.experiments import experiments
from tests.unit.factory import make_record, make_spec

EXACT = {"steps": 6, "warmup_steps": 2, "target_precision": None, "max_seconds": None}
MODEL = nn.Linear(3, 2)


def records(folder: Path) -> list[Record]:
    return load_records(folder).records if folder.exists() else []


def loop(recorder: scalebench.Recorder, steps: int, pause: float = 0.0) -> int:
    """Steps of a loop until the recorder has enough; how many there were."""
    for step in range(steps):
        if recorder.done:
            return step
        time.sleep(pause)
        recorder.step(torch.tensor(float(step)), grad_norm=1.5)
    return steps


def broken_loop(recorder: scalebench.Recorder) -> None:
    loop(recorder, 8)
    raise RuntimeError


def test_a_loop_becomes_the_record_of_a_run(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(MODEL.parameters(), lr=0.5, momentum=0.9)
    recorder = scalebench.Recorder(MODEL, optimizer, micro_batch=4, results=tmp_path, item="image", **EXACT)
    assert loop(recorder, 100, pause=0.01) == 2 + 2 + 6  # warm-up, two steps that refill after the pause, the window
    [record] = records(tmp_path)
    assert (record.status, record.kind, record.spec.strategy, record.spec.micro_batch) == ("ok", "run", "script", 4)
    assert (record.spec.optimizer.name, record.spec.optimizer.learning_rate) == ("sgd", 0.5)
    assert record.ranks[0].losses == [float(step) for step in range(10)]
    assert record.workload is not None
    assert (record.workload.parameters, record.workload.item) == (8, "image")
    assert record.contract is None
    assert "not observed" in record.unmatched[0]
    timed = window(record)
    assert timed is not None
    assert timed.steps == 6
    assert timed.items_per_second is not None
    assert timed.items_per_second <= 4 / 0.01  # each step slept so long


def test_what_comes_after_costs_nothing(tmp_path: Path) -> None:
    recorder = scalebench.Recorder(MODEL, micro_batch=1, results=tmp_path, **EXACT)
    loop(recorder, 20)
    recorder.step()
    recorder.close()
    assert len(records(tmp_path)) == 1


def test_a_loop_that_ends_early_is_recorded_by_a_with(tmp_path: Path) -> None:
    with scalebench.Recorder(MODEL, micro_batch=1, results=tmp_path, **(EXACT | {"steps": 1000})) as recorder:
        loop(recorder, 9)
    [record] = records(tmp_path)
    assert record.window is not None
    assert (record.window.stopped, len(record.ranks[0].step_end_ns)) == ("ended", 9)


def test_too_short_a_loop_is_told_and_not_recorded(tmp_path: Path, capsys: Any) -> None:
    with scalebench.Recorder(MODEL, micro_batch=1, results=tmp_path, **EXACT) as recorder:
        loop(recorder, 2)
    assert records(tmp_path) == []
    assert "ended after 2 steps" in capsys.readouterr().err


def test_a_loop_that_raises_is_not_recorded(tmp_path: Path) -> None:
    recorder = scalebench.Recorder(MODEL, micro_batch=1, results=tmp_path, **EXACT)
    with pytest.raises(RuntimeError), recorder:
        broken_loop(recorder)
    assert records(tmp_path) == []


def test_beside_a_record_it_stands_in_the_same_table(tmp_path: Path) -> None:
    spec = make_spec(strategy="single", cores_per_rank=None, optimizer={"learning_rate": 0.01})
    other = make_record(spec, environment=collect())
    path = write_record(other, tmp_path / "s1")
    recorder = scalebench.Recorder(MODEL, like=path, results=tmp_path)
    loop(recorder, 20, pause=0.002)
    found = records(tmp_path)
    assert len(found) == 2
    [experiment] = experiments(found)
    assert {cell.spec.strategy for cell in experiment.cells} == {"single", "script"}
    assert all(cell.throughput is not None for cell in experiment.cells)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "micro_batch"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"micro_batch": 1, "precission": "bf16"}, "no argument 'precission'"),
        ({"micro_batch": 1, "precision": "bf17"}, "precision"),
        ({"like": "nowhere.json"}, "nowhere.json"),
        ({"like": __file__}, "no record"),
    ],
)
def test_wrong_arguments_are_told(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        scalebench.Recorder(MODEL, results=tmp_path, **arguments)
    assert "\n" not in str(caught.value)


def test_ranks_without_a_process_group_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="before the process group"):
        scalebench.Recorder(MODEL, micro_batch=1, results=tmp_path)


def test_an_optimizer_that_no_spec_can_say_is_noted() -> None:
    optimizer = torch.optim.RMSprop(MODEL.parameters())
    assert "RMSprop" in loop_of(MODEL, None, "script", optimizer, {"micro_batch": 1}).unmatched[1]
