"""What trainings are judged by: validation by all ranks or by one, what is generated, the test at the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from scalebench import load_checkpoint, strategies, workloads
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place
from scalebench.recipe import Recipe
from scalebench.records.record import Record
from scalebench.records.training import TrainingFacts
from scalebench.strategies.config import TrainConfig
from scalebench.training.fid import asked_fid, extractor_of
from scalebench.training.parts import Split, parts
from scalebench.training.pictures import PICTURED, sheet
from scalebench.training.shares import Share
from scalebench.training.validation import Findings, Validation
from tests.distributed.ranks import run_ranks
from tests.distributed.test_training import facts, recipe, small, train
from tests.distributed.training import CPU, FP32_TOLERANCE, rank
from tests.unit.image_batches import made
from tests.unit.test_fid import PROJECTION, frechet

pytestmark = pytest.mark.distributed

LOOKED_AT, COMPARED = 5, 30
CHANGES = {
    "workload": "vavae", "size": "tiny", "workload_options": workloads.resolve_options("vavae", "tiny"),
    "data": "digits", "micro_batch": 4, "ema_decay": None,
}  # fmt: skip


def asked(**changes: object) -> Recipe:
    fields: dict[str, object] = {
        "steps": 2, "val_every": 2, "save_every": None, "val_batches": 7, "test_share": 0.05, "samples": LOOKED_AT,
        "fid": asked_fid(PROJECTION, COMPARED),
    }  # fmt: skip
    return recipe(**fields | changes)


def split() -> Split:
    return parts(workloads.create("vavae", "tiny"), small("ddp", **CHANGES), asked())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Record]]:
    """The same training, validated by all ranks, and by rank 0 alone."""
    pytest.importorskip("torchmetrics")
    pytest.importorskip("sklearn")
    found = {}
    for on in ("all", "rank0"):
        folder = tmp_path_factory.mktemp(on) / "c"
        found[on] = folder, train(folder, small("ddp", **CHANGES), asked(validate_on=on))
    return found


@pytest.fixture(scope="module")
def reconstructed(trained: dict[str, tuple[Path, Record]]) -> tuple[Tensor, Tensor]:
    """Of the held-out images that are compared: they, and what plain PyTorch makes of them with the trained weights."""
    batch = split().val.__getitems__(range(COMPARED))
    with torch.no_grad():
        return batch["images"], load_checkpoint(trained["all"][0])(batch, "generate")


def test_rank_0_alone_finds_the_same_while_the_other_waits(trained: dict[str, tuple[Path, Record]]) -> None:
    together, alone = (facts(record).evaluations[0] for _, record in trained.values())
    assert alone.metrics == pytest.approx(together.metrics, rel=1e-6)
    assert (together.rank_samples, alone.rank_samples) == ([16, 12], [28, 0])
    assert alone.rank_seconds[1] < alone.rank_seconds[0]
    assert facts(trained["rank0"][1]).test.metrics == pytest.approx(facts(trained["all"][1]).test.metrics, rel=1e-6)  # type: ignore[union-attr]


def test_the_distance_is_that_of_what_plain_pytorch_makes(
    trained: dict[str, tuple[Path, Record]], reconstructed: tuple[Tensor, Tensor]
) -> None:
    extractor = extractor_of(PROJECTION)
    expected = frechet(*(extractor(pictures) for pictures in reconstructed))
    for _, record in trained.values():
        found = facts(record).evaluations[0].metrics[asked().fid.metric]  # type: ignore[union-attr]
        assert found == pytest.approx(expected, rel=1e-3)


def test_sheets_show_what_plain_pytorch_makes(
    trained: dict[str, tuple[Path, Record]], reconstructed: tuple[Tensor, Tensor]
) -> None:
    images, made = (pictures[:LOOKED_AT] for pictures in reconstructed)
    expected = sheet(PICTURED["vavae"].shown({"images": images}, made)).permute(1, 2, 0).squeeze(-1).numpy()
    for folder, record in trained.values():
        (kept,) = facts(record).sheets
        assert (kept.step, kept.samples) == (2, LOOKED_AT)
        read = np.asarray(Image.open(folder.parent / "results" / record.session / kept.file))
        assert np.abs(read.astype(int) - expected).max() <= 1


def require_test_of(found: TrainingFacts, folder: Path) -> None:
    """The test's metrics are those of the checkpoint's weights on the samples held out for it."""
    held = split().test
    assert held is not None
    assert found.test is not None
    with torch.no_grad():
        sums = load_checkpoint(folder / Path(found.test.checkpoint).name)(
            held.__getitems__(range(len(held))), "metrics"
        )
    assert found.test.samples == len(held)
    expected = workloads.create("vavae", "tiny").metrics(sums)
    assert found.test.metrics == pytest.approx(expected, rel=FP32_TOLERANCE)


def test_the_best_checkpoint_is_tested(trained: dict[str, tuple[Path, Record]]) -> None:
    for folder, record in trained.values():
        require_test_of(facts(record), folder)


def test_a_training_that_is_over_is_tested_without_a_step(
    trained: dict[str, tuple[Path, Record]], tmp_path: Path
) -> None:
    folder, before = trained["all"]
    record = train(folder, small("ddp", **CHANGES), asked(), resume=folder / "step-00000002", results=tmp_path)
    assert (facts(record).first_step, record.ranks[0].losses) == (2, [])
    assert facts(record).test.metrics == pytest.approx(facts(before).test.metrics)  # type: ignore[union-attr]
    require_test_of(facts(record), folder)


def test_the_better_of_two_checkpoints_is_tested(tmp_path: Path) -> None:
    """By a metric that has to get worse as the model learns."""
    folder = tmp_path / "c"
    worst = asked(steps=4, save_every=2, monitor="loss", higher=True, fid=None, samples=0)
    found = facts(train(folder, small("fsdp", **CHANGES), worst))
    assert found.evaluations[0].metrics["loss"] > found.evaluations[1].metrics["loss"]
    assert found.test is not None
    assert found.test.step == 2
    require_test_of(found, folder)


def validated_alone() -> tuple[Findings, list[float]]:
    """Rank 0 alone looks at batches of a model whose norms have buffers, which DDP would send around."""
    workload = made("segmentation", norm="batch")
    step = strategies.create("ddp").prepare(workload, TrainConfig(micro_batch=2), CPU)
    source = workload.samples("synthetic", 0)
    share = Share(
        source=source, micro_batch=2, batches=2 + rank(), on="rank0", phase=Phase(None, rank()),
        place=Place(rank=rank(), local_rank=rank(), world_size=2, device=CPU),
    )  # fmt: skip
    losses = [step([source.__getitems__([rank(), 2])]).item()]
    found = Validation(share=share, workload=workload)(step)
    losses.append(step([source.__getitems__([4, 5])]).item())
    return found, losses


def test_buffers_stay_where_they_are_while_rank_0_is_alone() -> None:
    (first, losses), (second, others) = run_ranks(validated_alone, 2)
    assert first.metrics == second.metrics
    assert first.rank_samples == second.rank_samples == [4, 0]
    assert losses[1] == pytest.approx(others[1], rel=1e-5)  # on the same samples after the same step
