"""Trackers, each store read back by its own reader; what fails is left out; what the machine says of itself."""

from __future__ import annotations

import csv
import importlib.util
import json
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalebench import trackers
from scalebench.cli.tracking import REMEMBERED, dotted, options_of, tracking
from scalebench.errors import UserError
from scalebench.trackers import TRACKERS, Known, open_tracker, require_installed
from scalebench.trackers.base import Run
from scalebench.trackers.guard import Guarded
from scalebench.trackers.options import Options
from tests.fake_nvml.library import build, run
from tests.unit.factory import make_spec

LOSSES = {1: 3.5, 2: 2.25, 4: 0.125}
"""Exact in fp32, which TensorBoard keeps."""
PARAMETERS = {"spec.strategy": "ddp", "spec.world_size": 2, "recipe.target": None}
BLOCK_BYTES, HEADER_BYTES, WANDB_HEADER_BYTES = 32768, 7, 7


def run_of(folder: Path, first_step: int = 0, **options: object) -> Run:
    asked = Options.model_validate({"dir": str(folder), "project": "ours", "tags": "a,b", **options})
    return Run(id="net-20260101", name="net", options=asked, parameters=PARAMETERS, first_step=first_step)


def pictures() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)


def kept(name: str, folder: Path, checkpoint: Path | None = None) -> str:
    """Let a tracker keep LOSSES, a picture and a checkpoint; what it says at its end."""
    require_packages(name)
    tracker = open_tracker(name, run_of(folder))
    for step, loss in LOSSES.items():
        tracker.scalars({"train/loss": loss}, step)
    tracker.images("samples", pictures(), 4)
    tracker.images("grey", pictures()[:, :1], 4)
    tracker.scalars({"val/loss": 0.5}, 4)
    if checkpoint:
        tracker.checkpoint(checkpoint)
    return tracker.end("ok")


def require_packages(name: str) -> None:
    for package in TRACKERS[name].packages:
        pytest.importorskip(package)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000004"
    folder.mkdir()
    (folder / "checkpoint.json").write_text("{}")
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open()))


def test_csv_has_a_row_per_step_and_a_column_per_figure(tmp_path: Path) -> None:
    rows = rows_of(Path(kept("csv", tmp_path)))
    assert {int(row["step"]): float(row["train/loss"]) for row in rows[:3]} == LOSSES
    assert rows[3] == {"step": "4", "train/loss": "", "val/loss": "0.5"}
    assert json.loads((tmp_path / "csv" / "net-20260101.json").read_text()) == PARAMETERS


def test_csv_goes_on_after_the_checkpoint(tmp_path: Path) -> None:
    kept("csv", tmp_path)
    again = open_tracker("csv", run_of(tmp_path, first_step=2))
    again.scalars({"train/loss": 1.0, "train/grad_norm": 2.0}, 3)
    rows = rows_of(Path(again.end("ok")))
    assert [(row["step"], row["train/loss"], row["train/grad_norm"]) for row in rows] == [
        ("1", "3.5", ""), ("2", "2.25", ""), ("3", "1.0", "2.0"),
    ]  # fmt: skip


def test_tensorboard_reads_its_events_and_hides_what_was_done_again(tmp_path: Path) -> None:
    assert kept("tensorboard", tmp_path) == f"tensorboard --logdir {tmp_path}/tensorboard"
    found = events(tmp_path)
    assert {event.step: event.value for event in found.Scalars("train/loss")} == LOSSES
    assert [event.step for event in found.Images("samples")] == [4]
    assert found.Images("samples")[0].height == 4
    data = found.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert b"spec.world_size" in data
    again = open_tracker("tensorboard", run_of(tmp_path, first_step=2))
    again.scalars({"train/loss": 1.0}, 3)
    again.end("ok")
    assert {event.step: event.value for event in events(tmp_path).Scalars("train/loss")} == {1: 3.5, 2: 2.25, 3: 1.0}


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard" / "net-20260101"))
    return found.Reload()


def test_wandb_keeps_everything_offline(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    command, _, folder = kept("wandb", tmp_path, checkpoint).rpartition(" ")
    assert command == "wandb sync"
    (file,) = Path(folder).glob("*.wandb")
    records = list(wandb_records(file.read_bytes()))
    (begun,) = (record.run for record in records if record.HasField("run"))
    assert (begun.project, begun.display_name, list(begun.tags)) == ("ours", "net", ["a", "b"])
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert PARAMETERS.items() <= config.items()
    history = [items_of(record) for record in records if record.HasField("history")]
    assert {row["_step"]: row["train/loss"] for row in history if "train/loss" in row} == LOSSES
    assert history[-1]["val/loss"] == 0.5
    assert history[-1]["samples.count"] == 2
    assert any(record.HasField("request") or record.HasField("artifact") for record in records)


def items_of(record: Any) -> dict[str, Any]:
    """A row of W&B's history."""
    items = record.history.item
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def wandb_records(data: bytes) -> Iterator[Any]:
    """The messages of a `.wandb` file, as W&B's own classes read them. They lie in LevelDB's log format: blocks of
    32 KiB, in which each piece has a checksum, its length and whether it is whole (1), first (2), middle, last (4)."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, message = WANDB_HEADER_BYTES, b""
    while place + HEADER_BYTES <= len(data):
        if BLOCK_BYTES - place % BLOCK_BYTES < HEADER_BYTES:
            place += BLOCK_BYTES - place % BLOCK_BYTES
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER_BYTES])
        message += data[place + HEADER_BYTES : place + HEADER_BYTES + length]
        place += HEADER_BYTES + length
        if kind in (1, 4):
            yield Record.FromString(message)
            message = b""


def test_mlflow_finds_the_run_and_goes_on_in_it(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = kept("mlflow", tmp_path, checkpoint).split()[-1]
    again = open_tracker("mlflow", run_of(tmp_path, first_step=4))
    again.scalars({"train/loss": 0.0625}, 8)
    again.end("failed")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    (found,) = client.search_runs([client.get_experiment_by_name("ours").experiment_id])
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert {metric.step: metric.value for metric in history} == LOSSES | {8: 0.0625}
    assert found.data.params == {name: str(value) for name, value in PARAMETERS.items()}
    assert (found.info.run_name, found.info.status) == ("net", "FAILED")
    assert {"a", "b"} <= found.data.tags.keys()
    kept_files = client.list_artifacts(found.info.run_id, "checkpoints/step-00000004")
    assert [Path(file.path).name for file in kept_files] == ["checkpoint.json"]
    assert len(client.list_artifacts(found.info.run_id, "images/samples")) == 2


@pytest.mark.parametrize("name", list(TRACKERS))
def test_a_store_that_cannot_be_written_is_told_once_and_nothing_raises(name: str, tmp_path: Path) -> None:
    require_packages(name)
    (tmp_path / "file").write_text("in the way")
    told: list[str] = []
    guarded = Guarded(name, lambda: open_tracker(name, run_of(tmp_path / "file")), told.append)
    for step in range(3):
        guarded.call("scalars", {"train/loss": 1.0}, step)
    guarded.end("ok", patience_seconds=250)
    assert guarded.said is None
    (line,) = told
    assert line.startswith(f"tracker {name} fails and is left out: ")


class Breaking:
    """Fails at the third figure."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.taken.append(step)
        if step == 3:
            raise OSError(28, "No space left on device")

    def images(self, name: str, images: Any, step: int) -> None:
        raise AssertionError

    def checkpoint(self, path: Path) -> None:
        raise AssertionError

    def end(self, status: str) -> str:
        raise AssertionError


def test_one_that_breaks_in_the_middle_is_left_out() -> None:
    told: list[str] = []
    tracker = Breaking()
    guarded = Guarded("ours", lambda: tracker, told.append)
    for step in range(1, 9):
        guarded.call("scalars", {}, step)
    guarded.end("ok", patience_seconds=250)
    assert tracker.taken == [1, 2, 3]
    assert told == [
        "tracker ours fails and is left out: OSError: [Errno 28] No space left on device. Training goes on."
    ]


def test_one_that_hangs_is_left_behind() -> None:
    told: list[str] = []
    for_good = threading.Event()

    class Hanging(Breaking):
        def scalars(self, values: Mapping[str, float], step: int) -> None:
            for_good.wait(60)

    guarded = Guarded("ours", Hanging, told.append)
    guarded.call("scalars", {}, 1)
    guarded.end("ok", patience_seconds=0.05)
    for_good.set()
    assert told[0] == "tracker ours has not ended within 0.05 s, and is left behind."


def test_options_say_what_is_allowed(tmp_path: Path) -> None:
    assert options_of({"tags": "a, b", "name": 3}, ["csv"]) == Options(tags=("a", "b"), name="3")
    with pytest.raises(UserError, match="Did you mean 'project'"):
        options_of({"projekt": "x"}, ["csv"])
    with pytest.raises(UserError, match="csv keep no checkpoints"):
        options_of({"log_checkpoints": True}, ["csv"])
    with pytest.raises(UserError, match="Add --tracker"):
        tracking([], {"project": "x"}, tmp_path, resuming=False)


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Known(place="wandb:Wandb", packages=("no_such_package_here",)))
    with pytest.raises(UserError, match=r"needs no_such_package_here, .*pip install 'scalebench-suite\[wandb\]'"):
        require_installed(["csv", "wandb"])


def test_what_is_resumed_is_tracked_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    first = tracking(["csv"], {"dir": "elsewhere"}, folder, resuming=False)
    assert first is not None
    assert first.id.startswith("net-2")
    assert (folder / REMEMBERED).is_file()
    assert tracking([], {}, folder, resuming=True) == first
    anew = tracking(["csv"], {}, folder, resuming=False)
    assert anew is not None
    assert anew.options.dir == "tracking"


def test_hyper_parameters_have_dotted_names() -> None:
    found = dict(dotted({"spec": make_spec(workload_options={"dropout": 0.1})}))
    assert found["spec.workload_options.dropout"] == 0.1
    assert found["spec.optimizer.name"] == "adamw"


def test_the_gpus_sensors_are_read(tmp_path: Path) -> None:
    code = """
from scalebench.trackers.system import system_figures
with system_figures() as figures:
    result = figures()
"""
    found = run(build(tmp_path), code, FAKE_NVML_GPUS="2")
    assert found["system/gpu1_power_milliwatts"] == 200_000
    assert found["system/gpu0_utilisation_percent"] == 97
    assert 0 <= found["system/cpu_percent"] <= 100
    assert not any("throttle" in name for name in found)


def test_trackers_are_known_without_being_imported() -> None:
    for known in TRACKERS.values():
        module = known.place.partition(":")[0]
        assert importlib.util.find_spec(f"scalebench.trackers.{module}") is not None
