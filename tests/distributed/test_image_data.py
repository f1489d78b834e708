"""Image files under real ranks and their loading processes: what they train on, and a file that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scalebench import workloads
from scalebench.data.synth import Synthesis, synthesise
from scalebench.records.record import Record
from tests.distributed.test_runner import run_one, tiny

pytestmark = pytest.mark.distributed


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 15 images in three classes, of which one, not the first, is cut short."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    synthesise(Synthesis(target=tmp_path / "set", classes=3, per_class=5, image_size=24, extension="jpg", seed=0))
    file = tmp_path / "set/images/diamond/0002.jpg"
    file.write_bytes(file.read_bytes()[:400])
    return tmp_path / "set/images"


def trained(data: str, results: Path, **fields: Any) -> Record:
    """A run of ddp on two ranks over several epochs of a small classifier."""
    options = workloads.resolve_options("classifier", "tiny", {"num_classes": 3, "dropout": 0.0})
    model = {"workload": "classifier", "size": "tiny", "workload_options": options, "diagnostics": False}
    return run_one(tiny("ddp", 2, **model, data=data, **fields), results)


def test_loading_processes_change_nothing_and_what_was_left_out_is_recorded(damaged: Path, tmp_path: Path) -> None:
    data = f"images:{damaged}?skip_corrupt=true"
    alone, ahead = (trained(data, tmp_path / "results", num_workers=workers) for workers in (0, 1))
    assert (alone.status, ahead.status) == ("ok", "ok")
    assert [rank.losses for rank in alone.ranks] == [rank.losses for rank in ahead.ranks]
    assert alone.ranks[0].losses != alone.ranks[1].losses
    assert alone.workload is not None
    assert (alone.workload.data_samples, alone.workload.data_name) == (14, f"{data} (1 of 15 unreadable, left out)")


def test_a_file_that_cannot_be_read_fails_the_run_in_one_sentence_with_its_name(damaged: Path, tmp_path: Path) -> None:
    record = trained(f"images:{damaged}", tmp_path / "results", num_workers=1)
    assert record.status == "failed"
    assert record.reason is not None
    told = record.reason.partition(": ")[2]
    assert told.startswith(f"cannot read the image {damaged}/diamond/0002.jpg: ")
    assert "skip_corrupt=true" in told
