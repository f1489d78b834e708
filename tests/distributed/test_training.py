"""Trainings by real ranks: what is validated, what a killed one goes on from, what is left when the disk is full."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from scalebench import load_checkpoint, workloads
from scalebench.recipe import Recipe, Training
from scalebench.records.record import Record
from scalebench.records.training import TrainingFacts
from scalebench.spec import PlannedRun, RunSpec
from scalebench.strategies.config import OptimizerConfig
from scalebench.training import session
from scalebench.training.board import Board
from scalebench.training.manifest import UNFINISHED, checkpoints_in, read_manifest
from scalebench.training.parts import parts
from scalebench.training.whole import verify
from tests.distributed.test_runner import ranks_of_this_process
from tests.distributed.training import FP32_TOLERANCE

pytestmark = pytest.mark.distributed

STEPS = 12
SMALL = {"num_layers": 1, "hidden_size": 32, "num_heads": 2, "context_length": 16, "vocab_size": 256, "dropout": 0.1}


LEARNING = ("fsdp", "deepspeed_stage_2")


def small(strategy: str, ranks: int = 2, **changes: object) -> RunSpec:
    fields: dict[str, object] = {
        "workload": "gpt", "size": "tiny", "workload_options": SMALL, "data": "synthetic", "strategy": strategy,
        "device": "cpu", "world_size": ranks, "threads_per_rank": 1, "micro_batch": 2, "ema_decay": 0.9,
    }  # fmt: skip
    return RunSpec.model_validate(fields | changes)


def recipe(**changes: object) -> Recipe:
    fields: dict[str, object] = {
        "steps": STEPS, "steps_per_epoch": 5, "base_learning_rate": 3e-4, "schedule": "cosine", "warmup_steps": 2,
        "val_every": 4, "val_batches": 3, "save_every": 2, "log_every": 100,
    }  # fmt: skip
    return Recipe.model_validate(fields | changes)


def train(
    folder: Path, spec: RunSpec, asked: Recipe | None = None, *, resume: Path | None = None, results: Path | None = None
) -> Record:
    asked = asked or recipe()
    staging = "/dev/shm" if asked.save_async else None
    training = Training(recipe=asked, folder=str(folder), staging=staging, resume=str(resume) if resume else None)
    run = PlannedRun(spec=spec, kind="train", training=training)
    where = results or folder.parent / "results"
    return session.train(run, results=where, start_method="forkserver", board=Board())[0]


def facts(record: Record) -> TrainingFacts:
    assert record.status == "ok", record.reason
    assert record.training is not None
    return record.training


@contextlib.contextmanager
def rank_killed_once(reached: Callable[[], object], after_seconds: float = 0.0, which: int = 0) -> Iterator[None]:
    """While inside, one of this process's ranks is killed as soon as something is `reached`, or some time later."""
    over = threading.Event()

    def kill() -> None:
        while not reached() and not over.is_set():
            time.sleep(0.005)
        time.sleep(after_seconds)
        for process in ranks_of_this_process()[which : which + 1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


WAITS = """
import time

class Waits:
    def on_steps(self, moment):
        if moment.step == 6:  # so far it gets at the most, if it is not killed before
            time.sleep(600)
"""
SLOW = [("single", 1), *((name, 2) for name in ("ddp", "fsdp", "fsdp1", *(f"deepspeed_stage_{n}" for n in (1, 2, 3))))]
SLOW_ASYNC = [("deepspeed_stage_2", 2, True), ("deepspeed_stage_3", 2, True)]


@pytest.mark.parametrize(
    ("strategy", "ranks", "save_async"),
    [
        ("fsdp", 2, True),
        *(pytest.param(*one, False, marks=pytest.mark.slow) for one in SLOW),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW_ASYNC),
    ],
)
def test_a_killed_training_goes_on_to_the_bit(strategy: str, ranks: int, save_async: bool, tmp_path: Path) -> None:
    spec, folder = small(strategy, ranks), tmp_path / "killed"
    straight = train(tmp_path / "straight", spec)
    (tmp_path / "waits.py").write_text(WAITS)
    asked = recipe(save_async=save_async, callbacks=(f"{tmp_path / 'waits.py'}:Waits",))
    with rank_killed_once(lambda: checkpoints_in(folder)):
        killed = train(folder, spec, asked)
    assert killed.status == "failed"
    resumed = train(folder, spec, resume=checkpoints_in(folder)[-1])
    first = facts(resumed).first_step
    assert 0 < first < STEPS
    for before, after in zip(straight.ranks, resumed.ranks, strict=True):
        assert after.losses == before.losses[first:]
    found = [[one.metrics for one in facts(record).evaluations] for record in (straight, resumed)]
    assert found[0] == found[1]
    ends = [load_checkpoint(path, ema=True).state_dict() for path in (tmp_path / "straight", folder)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_validation_counts_every_sample_once_and_the_checkpoint_is_the_model(tmp_path: Path) -> None:
    spec = small("fsdp", workload_options=SMALL | {"dropout": 0.0})
    asked = recipe(steps=2, val_every=2, val_batches=None, val_share=0.0013)  # 5 samples: 2 + 2 + 1, on two ranks
    record = train(tmp_path / "c", spec, asked)
    (evaluation,) = facts(record).evaluations
    workload = workloads.create("gpt", "tiny", spec.workload_options)
    held = parts(workload, spec, asked).val
    assert len(held) == facts(record).val_samples == 5
    module = load_checkpoint(tmp_path / "c")
    assert not module.training
    with torch.no_grad():
        loss = module(held.__getitems__(range(5))).item()
    assert evaluation.metrics["loss"] == pytest.approx(loss, rel=FP32_TOLERANCE)


def test_two_ranks_go_on_as_one(tmp_path: Path) -> None:
    options = {"workload_options": SMALL | {"dropout": 0.0}}
    straight = train(tmp_path / "straight", small("fsdp", 2, **options), recipe(keep_best=9))
    earlier = tmp_path / "straight" / "step-00000004"
    resumed = train(tmp_path / "one", small("single", 1, accumulation=2, **options), resume=earlier)
    losses = [sum(pair) / 2 for pair in zip(*(rank.losses for rank in straight.ranks), strict=True)]
    assert resumed.ranks[0].losses == pytest.approx(losses[4:], rel=FP32_TOLERANCE)


@pytest.mark.parametrize("strategy", ["ddp", *(pytest.param(n, marks=pytest.mark.slow) for n in LEARNING)])
def test_the_classifier_learns_to_read_digits(strategy: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    options = workloads.resolve_options("classifier", "conv", {"image_size": 12})
    changes = {"workload": "classifier", "size": "conv", "workload_options": options, "data": "digits"}
    optimizer = OptimizerConfig(learning_rate=0.002)
    spec = small(strategy, **changes, micro_batch=16, ema_decay=None, optimizer=optimizer)
    target = {"metric": "accuracy", "value": 0.97, "higher": True}
    fields = {"warmup_steps": 20, "steps_per_epoch": 50, "val_every": 50, "val_batches": None, "save_every": None}
    found = facts(train(tmp_path / "c", spec, recipe(steps=400, target=target, **fields)))
    assert found.ended == "target"
    assert found.val_samples == 180


def test_gpt_learns_more_of_a_text_than_how_often_each_byte_occurs(tmp_path: Path) -> None:
    options = workloads.resolve_options("gpt", "tiny")
    spec = small("ddp", workload_options=options, data="text:stdlib", optimizer=OptimizerConfig(learning_rate=0.003))
    asked = recipe(steps=60, val_every=60, val_batches=40, save_every=None)
    (evaluation,) = facts(train(tmp_path / "c", spec, asked)).evaluations
    held = parts(workloads.create("gpt", "tiny", options), spec, asked).val
    counts = held.__getitems__(range(80))["targets"].flatten().bincount().double()
    shares = counts[counts > 0] / counts.sum()
    assert evaluation.metrics["loss"] < -(shares * shares.log()).sum().item()


def test_a_target_ends_the_training_early(tmp_path: Path) -> None:
    target = {"metric": "loss", "value": 100.0, "higher": False}
    found = facts(train(tmp_path / "c", small("ddp"), recipe(target=target)))
    assert (found.ended, found.evaluations[-1].step) == ("target", 4)
    assert found.last == str(tmp_path / "c" / "step-00000004")


def test_a_metric_that_is_not_there_is_told(tmp_path: Path) -> None:
    record = train(tmp_path / "c", small("ddp"), recipe(monitor="accuracy"))
    assert record.status == "failed"
    assert record.reason is not None
    assert "knows no accuracy" in record.reason
    assert "loss, perplexity" in record.reason


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("save_async", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_full_disk_leaves_the_last_checkpoint_whole(save_async: bool, tmp_path: Path) -> None:
    asked = recipe(keep_best=9, save_async=save_async)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "none", disk], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        record = train(disk / "c", small("ddp", ema_decay=None), asked, results=tmp_path / "results")
        assert record.status == "failed"
        assert record.reason is not None
        assert "could not be written" in record.reason
        assert "make room and resume" in record.reason
        whole = checkpoints_in(disk / "c")
        assert whole
        assert record.reason.count(whole[-1].name) == 1
        shutil.copytree(disk / "c", tmp_path / "c")
        resumed = train(tmp_path / "c", small("ddp", ema_decay=None), resume=tmp_path / "c" / whole[-1].name)
        assert facts(resumed).first_step > 0
    finally:
        subprocess.run(["umount", disk], check=True)


def saving_since(folder: Path, began_ns: int) -> bool:
    """Whether a checkpoint has been begun since then, and is not whole yet."""
    with contextlib.suppress(FileNotFoundError):  # it has just become whole
        return any(path.stat().st_mtime_ns > began_ns for path in folder.glob(f"{UNFINISHED}*"))
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "save_async"), [("ddp", False), ("ddp", True), ("fsdp", False), ("deepspeed_stage_3", False)]
)
def test_kills_in_the_middle_of_saves_lose_nothing_good(strategy: str, save_async: bool, tmp_path: Path) -> None:
    spec, folder = small(strategy, workload_options=SMALL | {"hidden_size": 128, "vocab_size": 4096}), tmp_path / "c"
    asked = recipe(steps=400, val_every=400, keep_best=0, save_async=save_async)
    facts(train(folder, spec, asked.model_copy(update={"steps": 2})))
    for attempt in range(20):
        last, saving = checkpoints_in(folder)[-1], partial(saving_since, folder, time.time_ns())
        with rank_killed_once(saving, 0.04 * attempt, which=attempt % 2):
            assert train(folder, spec, asked, resume=last).status == "failed"
        found = checkpoints_in(folder)
        for checkpoint in found:
            verify(checkpoint, read_manifest(checkpoint))
        assert found[-1] >= last
    whole = asked.model_copy(update={"save_every": None})
    assert facts(train(folder, spec, whole, resume=found[-1])).evaluations[-1].step == 400
