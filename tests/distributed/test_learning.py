"""Trainings that learn: losses fall, what is generated is in the report, segmentation beats the majority class."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from scalebench import workloads
from scalebench.cli import main
from scalebench.data.pixels import IGNORED
from scalebench.data.synth import Synthesis, synthesise
from scalebench.records.record import Record
from scalebench.records.store import load_records
from scalebench.reporting.report import write_report
from scalebench.spec import RunSpec
from scalebench.strategies.config import OptimizerConfig
from scalebench.training.parts import parts
from tests.distributed.test_training import facts, recipe, small, train

pytestmark = pytest.mark.distributed

CLASSES = 4
LOOKED_AT = 4


def spec_of(workload: str, data: str, learning_rate: float = 0.002, **options: object) -> RunSpec:
    return small(
        "ddp", workload=workload, size="tiny", workload_options=workloads.resolve_options(workload, "tiny", options),  # type: ignore[arg-type]
        data=data, micro_batch=16, ema_decay=None, optimizer=OptimizerConfig(learning_rate=learning_rate),
    )  # fmt: skip


def learned(folder: Path, spec: RunSpec, steps: int, **changes: object) -> Record:
    """A training of `steps`, which looks at samples at a third of them and at the end."""
    fields: dict[str, object] = {
        "steps_per_epoch": 10**6, "val_every": steps // 2, "save_every": None, "samples": LOOKED_AT,
    }  # fmt: skip
    return train(folder / "c", spec, recipe(steps=steps, **fields | changes), results=folder / "results")


def fallen(record: Record) -> float:
    """The mean loss of the last five steps over that of the first five."""
    losses = [fmean(each) for each in zip(*(rank.losses for rank in record.ranks), strict=True)]
    return fmean(losses[-5:]) / fmean(losses[:5])


def shown(folder: Path) -> str:
    """The report of what lies in `folder`, whose pictures are there."""
    loaded = load_records(folder / "results")
    homes = {record.session: path.parent for record, path in zip(loaded.records, loaded.paths, strict=True)}
    text = write_report(loaded.records, folder / "report", homes=homes).read_text()
    assert len(list((folder / "report").glob("samples-*.png"))) == text.count(f"{LOOKED_AT} samples after")
    return text


def test_jit_learns_and_its_samples_are_in_the_report_and_in_a_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    asked = (
        "train --strategy ddp --gpus 2 --device cpu --precision fp32 --workload jit --data digits --micro-batch 16 "
        "--steps 30 --lr 0.002 --val-every 15 --limit-val-batches 4 --samples 4 --test --checkpoint-contents weights "
        "--tracker tensorboard --set tracker.dir=logs"
    )
    assert main.exit_code(asked.split()) == 0
    (record,) = load_records(tmp_path / "results").records
    assert fallen(record) < 0.7
    assert [f"{LOOKED_AT} samples after {step} steps: jit tiny" in shown(tmp_path) for step in (15, 30)] == [True, True]
    (events,) = (tmp_path / "logs" / "tensorboard").iterdir()
    found = accumulator.EventAccumulator(str(events)).Reload()
    assert {event.step for name in found.Tags()["images"] for event in found.Images(name)} == {15, 30}
    test = facts(record).test
    assert test is not None
    assert [event.value for event in found.Scalars("test/loss")] == pytest.approx([test.metrics["loss"]])


@pytest.mark.slow
def test_vavae_learns_and_then_dit_in_its_latents(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    first = learned(tmp_path, spec_of("vavae", "digits", 0.003), 100)
    assert fallen(first) < 0.4
    given = ["--checkpoint", facts(first).last, "--data", "digits", "--output-dir", tmp_path / "latents"]
    assert main.exit_code(["data", "encode", *map(str, given)]) == 0
    second = learned(tmp_path / "dit", spec_of("dit", f"arrays:{tmp_path}/latents"), 150)
    assert fallen(second) < 0.5
    for folder, name in ((tmp_path, "vavae"), (tmp_path / "dit", "dit")):
        assert f"{LOOKED_AT} samples after" in shown(folder)
        assert f"Curves: {name} tiny" in shown(folder)


@pytest.mark.slow
def test_segmentation_beats_the_majority_class_on_made_shapes(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    set_of = Synthesis(target=tmp_path / "set", classes=CLASSES, per_class=60, image_size=64, extension="png", seed=0)
    synthesise(set_of)
    spec = spec_of("segmentation", f"pairs:{tmp_path}/set", 0.005, num_classes=CLASSES + 1)
    spec = spec.model_copy(update={"micro_batch": 4})
    asked = {"schedule": "cosine", "warmup_steps": 20, "val_batches": None}
    record = learned(tmp_path, spec, 300, **asked)
    held = parts(workloads.create("segmentation", "tiny", spec.workload_options), spec, recipe()).val
    masks = held.__getitems__(range(len(held)))["masks"]
    counts = masks[masks != IGNORED].bincount(minlength=CLASSES + 1).double()
    share = (counts.max() / counts.sum()).item()
    metrics = facts(record).evaluations[-1].metrics
    assert metrics["pixel_accuracy"] > share
    assert metrics["mean_iou"] > share / int((counts > 0).sum())
    assert f"{LOOKED_AT} samples after" in shown(tmp_path)
