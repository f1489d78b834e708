"""Checkpoints that are carried to disk while training goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from scalebench.harness.job import Job, Report
from scalebench.harness.lifeline import kept_folder
from scalebench.training import keeping, manifest, session, worker
from scalebench.training.manifest import HeldFile, checkpoints_in
from tests.distributed.test_training import facts, recipe, small, train

pytestmark = pytest.mark.distributed

PATIENCE_SECONDS = 60.0
STAGING = Path("/dev/shm")


def on_a_disk_that_waits_for_steps(job: Job) -> Report:
    """A rank of a training whose disk takes up no file before a step is made that follows the save."""
    assert isinstance(job, worker.TrainJob)
    board = job.board
    assert board is not None

    def copied(source: Path, target: Path) -> HeldFile:
        assert source.is_relative_to(STAGING)
        saved = int(target.relative_to(job.run.training.folder).parts[0].rpartition("-")[2])  # type: ignore[union-attr]
        last = saved >= job.run.spec.steps
        until = time.monotonic() + PATIENCE_SECONDS
        while board.read().step <= saved and not last:
            if time.monotonic() > until:
                raise TimeoutError(f"no step was made while step {saved} was being saved")
            time.sleep(0.005)
        return manifest.copied(source, target)

    keeping.copied = copied
    return worker.main(job)


def test_steps_are_made_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(steps=6, save_every=4, log_every=1, save_async=True, keep_best=9)
    spec = small("fsdp", steps=6)
    straight = train(tmp_path / "straight", spec, recipe(steps=6, save_every=4, log_every=1))
    monkeypatch.setattr(session.entry, "main", on_a_disk_that_waits_for_steps)
    record = train(tmp_path / "c", spec, asked)
    saves = facts(record).saves
    assert [save.step for save in saves] == [4, 6]
    assert [path.name for path in checkpoints_in(tmp_path / "c")] == ["step-00000004", "step-00000006"]
    for save in saves:
        assert save.durable_seconds is not None
        assert save.durable_seconds > save.seconds
    assert [rank.losses for rank in record.ranks] == [rank.losses for rank in straight.ranks]
    assert list(kept_folder(str(STAGING)).iterdir()) == [], "what this process stages there goes with the training"


def on_a_disk_that_fails(job: Job) -> Report:
    def copied(source: Path, target: Path) -> HeldFile:
        raise OSError(28, "No space left on device")

    keeping.copied = copied
    return worker.main(job)


def test_a_failure_meanwhile_ends_the_training_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.entry, "main", on_a_disk_that_fails)
    record = train(tmp_path / "c", small("ddp"), recipe(save_async=True))
    assert record.status == "failed"
    assert record.reason is not None
    assert "the checkpoint of step 2 could not be written into" in record.reason
    assert "No space left on device" in record.reason
    assert checkpoints_in(tmp_path / "c") == []
