"""Trainings by real ranks: what trackers are told and what their failure costs; the user's callbacks; anomalies."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from scalebench.cli.main import exit_code
from scalebench.errors import UserError
from scalebench.records.record import Record
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.construct import prepare_process
from scalebench.training.callbacks import HOOKS, resolved_callback
from tests.distributed.test_training import SMALL, recipe, small, train

pytestmark = pytest.mark.distributed

CALLBACK = """
import json
import time
from pathlib import Path


class Notes:
    def note(self, hook, moment):
        line = [hook, moment.step, len(moment.losses), moment.metrics is not None, str(moment.checkpoint or "")]
        with open(Path(__file__).parent / f"rank{moment.rank}.jsonl", "a") as file:
            print(json.dumps(line), file=file)

    def __getattr__(self, name):
        if name.startswith("on_"):
            return lambda moment: self.note(name, moment)
        raise AttributeError(name)


class Bad:
    def on_validation(self, moment):
        raise ValueError(f"nothing good at step {moment.step}")


class Vandal:
    def on_validation(self, moment):
        if moment.rank == 0 and moment.step == 4:
            while not list(Path("tracking/csv").glob("*.csv")):
                time.sleep(0.01)
            Path("tracking/csv").rename("tracking/gone")


class Misspelt:
    def on_validate(self, moment):
        pass


class Without:
    pass
"""

NAN_BACKWARD = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        nothing = torch.sqrt((0 * self.weight).square().sum())
        return (x * self.weight).sum(-1) + nothing


def make():
    return Model(), nn.MSELoss(), TensorDataset(torch.randn(64, 4), torch.randn(64))
"""


@pytest.fixture
def callbacks(tmp_path: Path) -> Path:
    file = tmp_path / "notes.py"
    file.write_text(CALLBACK)
    return file


TRAIN = [
    "train", "--strategy", "ddp", "--gpus", "2", "--device", "cpu", "--precision", "fp32", "--data", "synthetic",
    *(f"--set=workload.{name}={value}" for name, value in SMALL.items()), "--micro-batch", "2", "--steps", "7",
    "--log-every", "2", "--val-every", "4", "--limit-val-batches", "2", "--json",
]  # fmt: skip


def reason(record: Record) -> str:
    assert record.status == "failed"
    assert record.reason is not None
    return record.reason


def test_a_broken_tracker_costs_nothing_and_the_others_have_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "tensorboard").write_text("in the way")
    assert exit_code([*TRAIN, "--tracker", "csv", "--tracker", "tensorboard", "--set", "tracker.dir=logs"]) == 0
    out, err = capfd.readouterr()
    assert err.count("tracker tensorboard fails and is left out") == 1
    record = Record.model_validate_json(out.splitlines()[-1])
    (file,) = (tmp_path / "logs" / "csv").glob("*.csv")
    assert f"tracker csv: {file}" in err
    rows = list(csv.DictReader(file.open()))
    losses = {int(row["step"]): float(row["train/loss"]) for row in rows if row["train/loss"]}
    steps = [sum(each) / 2 for each in zip(*(rank.losses for rank in record.ranks), strict=True)]
    spans = {2: steps[0:2], 4: steps[2:4], 6: steps[4:6], 7: steps[6:]}
    assert losses == pytest.approx({step: sum(span) / len(span) for step, span in spans.items()})
    assert record.training is not None
    validated = {int(row["step"]): float(row["val/loss"]) for row in rows if row["val/loss"]}
    assert validated == {one.step: one.metrics["loss"] for one in record.training.evaluations}
    saved = {
        int(float(row["checkpoint/step"])): float(row["checkpoint/bytes"]) for row in rows if row["checkpoint/step"]
    }
    assert saved == {one.step: one.file_bytes for one in record.training.saves}
    assert {4, 7} == saved.keys()  # a validation that was the best so far, and the end
    assert float(rows[0]["system/rank0_resident_bytes"]) > 2**20
    assert float(rows[0]["train/grad_norm"]) == record.ranks[0].grad_norms[1]


def test_a_tracker_that_breaks_on_the_way_is_left_out(
    callbacks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    assert exit_code([*TRAIN, "--tracker", "csv", "--tracker", "tensorboard", "--callback", "notes.py:Vandal"]) == 0
    err = capfd.readouterr().err
    assert err.count("tracker csv fails and is left out: FileNotFoundError") == 1
    (folder,) = (tmp_path / "tracking" / "tensorboard").iterdir()
    found = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [2, 4, 6, 7]


def test_callbacks_are_called_on_every_rank_in_their_order(callbacks: Path, tmp_path: Path) -> None:
    asked = recipe(steps=4, log_every=3, val_every=4, save_every=None, callbacks=(f"{callbacks}:Notes",))
    record = train(tmp_path / "c", small("ddp"), asked)
    assert record.status == "ok", record.reason
    expected = [
        ["on_begin", 0, 0, False, ""],
        ["on_steps", 3, 3, False, ""],
        ["on_steps", 4, 1, False, ""],
        ["on_validation", 4, 0, True, ""],
        ["on_checkpoint", 4, 0, True, str(tmp_path / "c" / "step-00000004")],
        ["on_end", 4, 0, True, ""],
    ]
    notes = [(tmp_path / f"rank{rank}.jsonl").read_text().splitlines() for rank in range(2)]
    assert [json.loads(line) for line in notes[0]] == expected
    assert [json.loads(line) for line in notes[1]] == [line for line in expected if line[0] != "on_checkpoint"]
    assert record.recipe is not None
    assert record.recipe.callbacks == asked.callbacks


def test_a_callback_that_raises_is_told_with_its_place(callbacks: Path, tmp_path: Path) -> None:
    asked = recipe(steps=4, save_every=None, callbacks=(f"{callbacks}:Bad",))
    said = reason(train(tmp_path / "c", small("single", 1), asked))
    line = CALLBACK.splitlines().index('        raise ValueError(f"nothing good at step {moment.step}")') + 1
    assert f"on_validation of the callback {callbacks}:Bad raises ValueError: nothing good at step 4" in said
    assert f"({callbacks}, line {line})" in said


def test_what_is_no_callback_is_refused_before_a_launch(callbacks: Path) -> None:
    assert resolved_callback(f"{callbacks}:Bad") == f"{callbacks}:Bad"
    for name, said in {
        f"{callbacks}:Bat": "has no class Bat. Did you mean 'Bad'",
        f"{callbacks}:Misspelt": "has on_validate, which is never called. Did you mean 'on_validation'",
        f"{callbacks}:Without": f"Allowed: {', '.join(HOOKS)}",
        "no.such:Class": "no.such",
        "notes": "expected package.module:Class",
        "notes.py:Notes": "does not exist",
    }.items():
        with pytest.raises(UserError, match=said.replace("(", r"\(")):
            resolved_callback(name)


def test_a_nan_in_the_backward_pass_is_named(tmp_path: Path) -> None:
    model = tmp_path / "net.py"
    model.write_text(NAN_BACKWARD)
    changes = {"workload": f"{model}:make", "size": "own", "workload_options": {}, "data": "own", "ema_decay": None}
    asked = recipe(steps=2, val_every=2, save_every=None)
    silent = train(tmp_path / "silent", small("ddp", **changes), asked)
    assert silent.status == "ok", silent.reason
    assert silent.ranks[0].losses[1] != silent.ranks[0].losses[1]
    said = reason(train(tmp_path / "named", small("ddp", **changes, detect_anomaly=True), asked))
    assert "Function 'PowBackward0' returned nan values" in said
    line = NAN_BACKWARD.splitlines().index("        nothing = torch.sqrt((0 * self.weight).square().sum())") + 1
    assert f"called at {model}, line {line}, in forward" in said


def test_what_is_not_deterministic_is_refused_when_asked() -> None:
    values, places = torch.zeros(4), torch.tensor([0, 0])
    prepare_process(TrainConfig(deterministic=True))
    try:
        assert torch.backends.cudnn.deterministic
        with pytest.raises(RuntimeError, match="deterministic"):
            values.put_(places, torch.ones(2))
    finally:
        prepare_process(TrainConfig(cudnn_benchmark=True))
    assert torch.backends.cudnn.benchmark
    values.put_(places, torch.ones(2))
    prepare_process(TrainConfig())
    assert not torch.backends.cudnn.benchmark
