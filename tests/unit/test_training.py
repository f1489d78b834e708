"""Schedules, ends, held-out parts, checkpoint folders: what of training needs no ranks."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import pytest
import torch

from scalebench import workloads
from scalebench.cli.asking import Asked
from scalebench.cli.main import exit_code
from scalebench.cli.recipes import limited, resolved, target
from scalebench.cli.resuming import resumed_checkpoint, resuming_flags, with_global_batch, with_optimizer
from scalebench.cli.train import cell
from scalebench.cli.training_flags import SHARED
from scalebench.data.batches import loader
from scalebench.errors import UserError
from scalebench.machine import detect
from scalebench.recipe import Fid, Recipe, Target
from scalebench.records.training import Evaluation
from scalebench.spec import RunSpec
from scalebench.strategies.config import OptimizerConfig
from scalebench.training import failures
from scalebench.training.keeping import best_of, clear, finish, remove_others
from scalebench.training.learning_rate import learning_rate, scaled
from scalebench.training.manifest import (
    MANIFEST,
    HeldFile,
    Manifest,
    checkpoints_in,
    found_checkpoint,
    read_manifest,
    sha256_of,
)
from scalebench.training.parts import parts
from scalebench.training.requirements import require_possible, require_room
from scalebench.training.resumable import FREE_TO_CHANGE, differences, require_resumable
from scalebench.training.stopping import ended, next_stop, worth_saving
from scalebench.training.whole import verify
from tests.unit.factory import make_spec


def recipe(**changes: object) -> Recipe:
    fields: dict[str, object] = {"steps": 100, "steps_per_epoch": 10, "base_learning_rate": 0.1, "val_every": 10}
    return Recipe.model_validate(fields | changes)


def evaluation(step: int, **metrics: float) -> Evaluation:
    return Evaluation(step=step, samples=8 * step, elapsed_seconds=step, seconds=0.1, metrics=metrics)


def test_learning_rate_rises_over_the_warm_up_and_falls_as_torch_lets_it() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    asked = recipe(schedule="cosine", warmup_steps=10)
    assert [learning_rate(asked, 2.0, step) for step in range(10)] == pytest.approx([0.2 * n for n in range(1, 11)])
    for step in range(10, 100):
        assert learning_rate(asked, 2.0, step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        cosine.step()
    assert learning_rate(recipe(schedule="linear"), 2.0, 75) == pytest.approx(0.5)
    assert learning_rate(recipe(), 2.0, 99) == 2.0


def test_rules_scale_with_the_batch() -> None:
    assert [scaled(0.1, rule, 4) for rule in ("none", "linear", "sqrt")] == pytest.approx([0.1, 0.4, 0.2])


def test_chunks_end_where_something_is_to_be_done() -> None:
    asked = recipe(steps=25, log_every=10, val_every=12, save_every=9)
    stops, step = [], 0
    while step < 25:
        step = next_stop(asked, step)
        stops.append(step)
    assert stops == [9, 10, 12, 18, 20, 24, 25]


def test_patience_counts_validations_since_the_best() -> None:
    asked = recipe(patience=2)
    losses = [3.0, 2.0, 2.5]
    found = [evaluation(10 * n, loss=loss) for n, loss in enumerate(losses, 1)]
    assert ended(asked, found, 30) is None
    assert ended(asked, [*found, evaluation(40, loss=math.nan)], 40) == "patience"
    assert ended(asked, [*found, evaluation(40, loss=1.9)], 40) is None


def test_a_target_ends_it_when_a_validation_reaches_it() -> None:
    asked = recipe(target=Target(metric="accuracy", value=0.9, higher=True))
    assert ended(asked, [evaluation(10, accuracy=0.89)], 10) is None
    assert ended(asked, [evaluation(10, accuracy=0.9)], 10) == "target"
    assert ended(asked, [evaluation(10, accuracy=math.nan)], 10) is None
    assert ended(asked, [], 100) == "steps"


def test_held_out_samples_are_never_trained_on() -> None:
    workload = workloads.create("gpt", "tiny", {})
    for data in ("synthetic", "text:stdlib"):
        spec = make_spec(data=data)
        split = parts(workload, spec, recipe(val_share=0.25, test_share=0.1))
        whole = len(workload.samples(data, spec.seed))
        assert (len(split.val), len(split.test)) == (round(0.25 * whole), round(0.1 * whole))  # type: ignore[arg-type]
        rows = torch.cat([part.rows for part in (split.train, split.test, split.val)])  # type: ignore[attr-defined, union-attr]
        assert rows.sort().values.tolist() == list(range(whole))


def test_a_part_draws_its_samples_again_with_other_draws() -> None:
    workload = workloads.create("gpt", "tiny", {})
    train = parts(workload, make_spec(data="synthetic"), recipe()).train
    first, again = train.__getitems__([3]), train.__getitems__([3 + len(train)])
    assert torch.equal(first["tokens"], again["tokens"])


def test_a_loader_goes_on_in_the_middle_of_an_epoch() -> None:
    source = workloads.create("gpt", "tiny", {}).samples("synthetic", 0)
    settings = {"micro_batch": 8, "device": torch.device("cpu"), "steps_per_epoch": 5}
    straight, later = loader(source, **settings), loader(source, **settings, first_step=12)  # type: ignore[arg-type]
    for _ in range(12):
        next(straight)
    for _ in range(6):
        assert torch.equal(next(straight)[0]["tokens"], next(later)[0]["tokens"])


def make_checkpoint(folder: Path, step: int, loss: float, **changes: object) -> Path:
    unfinished = folder / f".writing-{step}"
    unfinished.mkdir(parents=True)
    (unfinished / "weights").write_bytes(b"w" * 100)
    held = HeldFile(file_bytes=100, sha256=sha256_of(unfinished / "weights"))
    fields = {
        "step": step, "elapsed_seconds": 1.0, "evaluations": [evaluation(step, loss=loss)], "contents": "full",
        "spec": make_spec(), "recipe": recipe(), "files": {"weights": held},
    }  # fmt: skip
    finish(unfinished, Manifest.model_validate(fields | changes))
    return folder / f"step-{step:08d}"


def test_only_whole_checkpoints_are_found(tmp_path: Path) -> None:
    whole = make_checkpoint(tmp_path, 5, 2.0)
    (tmp_path / ".writing-step-00000010" / "state").mkdir(parents=True)
    (tmp_path / "step-00000020").mkdir()
    assert checkpoints_in(tmp_path) == [whole]
    assert found_checkpoint(tmp_path) == found_checkpoint(whole) == whole


def test_the_best_come_first(tmp_path: Path) -> None:
    losses = {5: 2.0, 10: math.nan, 15: 1.0, 20: 1.5}
    made = {step: make_checkpoint(tmp_path, step, loss) for step, loss in losses.items()}
    assert best_of(recipe(), checkpoints_in(tmp_path)) == [made[15], made[20], made[5], made[10]]


def test_every_kind_of_damage_is_told(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, 5, 2.0)
    manifest = read_manifest(checkpoint)
    verify(checkpoint, manifest)
    for damage, said in ((b"w" * 99, "99 bytes instead of 100"), (b"v" * 100, "not what was written")):
        (checkpoint / "weights").write_bytes(damage)
        with pytest.raises(UserError, match=said):
            verify(checkpoint, manifest)
    (checkpoint / "weights").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        verify(checkpoint, manifest)
    (checkpoint / "checkpoint.json").write_text('{"step": 5')
    with pytest.raises(UserError, match="damaged or of another version"):
        read_manifest(checkpoint)


def test_a_damaged_checkpoint_is_passed_over_and_kept(tmp_path: Path) -> None:
    made = {step: make_checkpoint(tmp_path, step, 2.0) for step in (5, 10, 15, 20)}
    (made[15] / "weights").write_bytes(b"v" * 100)
    (made[20] / MANIFEST).write_text('{"step": 5')
    told: list[str] = []
    found = resumed_checkpoint({"resume": str(tmp_path)}, told.extend)
    assert found is not None
    assert found[0] == made[10]
    assert found[1].step == 10
    assert "step-00000020" in told[0]
    assert (
        "weights is not what was written. The one before it is step-00000010. The damaged one is kept as damaged-"
        in told[1]
    )
    assert told[2] == f"going on from {made[10]}, the last that is whole."
    assert checkpoints_in(tmp_path) == [made[5], made[10]]
    assert (tmp_path / "damaged-step-00000015" / "weights").read_bytes() == b"v" * 100
    (made[10] / "weights").unlink()
    with pytest.raises(UserError, match="weights cannot be read"):
        resumed_checkpoint({"resume": str(made[10])}, told.extend)


def test_where_no_checkpoint_is_whole_nothing_is_moved(tmp_path: Path) -> None:
    damaged = [make_checkpoint(tmp_path, step, 2.0) for step in (5, 10)]
    for checkpoint in damaged:
        (checkpoint / "weights").write_bytes(b"v" * 100)
    with pytest.raises(UserError, match="step-00000010 is damaged"):
        resumed_checkpoint({"resume": str(tmp_path)}, print)
    assert checkpoints_in(tmp_path) == damaged


def test_checkpoints_never_mix_with_later_ones_or_other_trainings(tmp_path: Path) -> None:
    first, last = (make_checkpoint(tmp_path / "c", step, 2.0) for step in (5, 10))
    require_room(tmp_path / "c", last)
    require_room(tmp_path / "new", first)
    for folder, resumed, said in (
        (first.parent, first, "holds later checkpoints than step-00000005, the last step-00000010"),
        (first.parent, None, "holds checkpoints already, the last step-00000010"),
        (make_checkpoint(tmp_path / "other", 5, 2.0).parent, first, "holds checkpoints already"),
    ):
        with pytest.raises(UserError, match=said):
            require_room(folder, resumed)


def test_what_is_removed_is_no_checkpoint_from_one_moment_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make_checkpoint(tmp_path, step, loss) for step, loss in ((5, 1.0), (10, 2.0), (15, 3.0))]

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_others(tmp_path, recipe())
    assert checkpoints_in(tmp_path) == [made[0], made[2]]
    monkeypatch.undo()
    clear(tmp_path)
    assert sorted(tmp_path.iterdir()) == [made[0], made[2]]


def test_validations_among_the_best_are_saved() -> None:
    losses = [3.0, 2.0, 2.0, math.nan, 2.5, 1.0]
    found = [evaluation(10 * number, loss=loss) for number, loss in enumerate(losses, 1)]
    for best, saved in {0: [], 1: [10, 20, 60], 2: [10, 20, 30, 60]}.items():
        asked = recipe(keep_best=best)
        worth = [one.step for number, one in enumerate(found, 1) if worth_saving(asked, found[:number], one.step)]
        assert worth == saved
        assert not worth_saving(asked, found, 65)
        assert not worth_saving(asked, [], 10)
    assert worth_saving(recipe(save_every=5, keep_best=0), found, 65)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.EROFS, "x"),
            "into {}: Read-only file system. The last whole one is step-00000005: mend that and",
        ),
        (
            OSError(errno.ENOSPC, "x"),
            "into {}: 7 MiB are left on its disk. The last whole one is step-00000005: make room",
        ),
        (RuntimeError("unexpected pos 64 vs 0"), "into {}: 7 MiB are left on its disk"),
    ],
)
def test_why_a_checkpoint_could_not_be_written_is_told(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path, 5, 2.0)
    monkeypatch.setattr(failures, "space", lambda folder: 7 * 2**20)
    with pytest.raises(UserError) as caught, failures.told(tmp_path, 10):
        raise error
    assert said.format(tmp_path) in str(caught.value)


def test_a_foreign_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        found_checkpoint(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        found_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 7}, "seed 0, now 7"),
        ({"optimizer": OptimizerConfig(learning_rate=1.0)}, "learning_rate 0.0003, now 1.0"),
        ({"micro_batch": 999}, "effective batch"),
        ({"strategy": "deepspeed_stage_2"}, "DeepSpeed's shards"),
    ],
)
def test_what_cannot_be_resumed_is_told(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, 5, 2.0)
    manifest = read_manifest(checkpoint)
    require_resumable(checkpoint, manifest, manifest.spec, manifest.recipe)
    with pytest.raises(UserError, match=said):
        require_resumable(checkpoint, manifest, manifest.spec.model_copy(update=changes), manifest.recipe)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"val_share": 0.2}, "val_share 0.1, now 0.2"),
        ({"schedule": "cosine", "steps": 200}, "steps 100, at which its schedule ends"),
        ({"steps": 5}, "more --steps"),
        ({"target": Target(metric="loss", value=3.0, higher=False)}, "another --target"),
    ],
)
def test_other_recipes_are_not_resumed(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, 5, 2.0)
    manifest = read_manifest(checkpoint)
    with pytest.raises(UserError, match=said):
        require_resumable(checkpoint, manifest, manifest.spec, recipe(**changes))
    weights = manifest.model_copy(update={"contents": "weights"})
    with pytest.raises(UserError, match="weights alone"):
        require_resumable(checkpoint, weights, manifest.spec, manifest.recipe)


def test_resuming_asks_for_what_was_asked_before(tmp_path: Path) -> None:
    target = {"metric": "loss", "value": 1.5, "higher": False}
    options = workloads.resolve_options("gpt", "tiny", {"dropout": 0.25})
    switches = {"deterministic": True, "detect_anomaly": True, "profile": "backend-default"}
    limits = {"memory_limit_bytes": 2**31, "timeout_seconds": 77.0}
    optimizer = OptimizerConfig(learning_rate=0.1, weight_decay=0.375)
    spec = make_spec(ema_decay=0.9, workload_options=options, optimizer=optimizer, **switches, **limits)
    (tmp_path / "mine.py").write_text("class Notes:\n    def on_end(self, moment):\n        pass\n")
    more = {"callbacks": (f"{tmp_path}/mine.py:Notes",), "target": target}
    settings = {"recipe": recipe(schedule="linear", val_batches=4, log_every=7, **more), "spec": spec}
    checkpoint = make_checkpoint(tmp_path, 5, 2.0, **settings)
    manifest = read_manifest(checkpoint)
    flags = resuming_flags(checkpoint, manifest, {"device": "cpu", "steps": 200})
    asked = Asked(flags={name: flags.pop(name) for name in (*SHARED, "set") if name in flags}, table={})
    spec = cell(asked, asked.request(), detect("cpu"))
    found, spec = resolved(spec, flags, lambda spec, recipe: (10, 4))
    assert found == manifest.recipe.model_copy(update={"steps": 200})
    same = with_global_batch(with_optimizer(spec, manifest.spec.optimizer), manifest.spec.global_batch)
    assert not list(differences(manifest.spec, same, FREE_TO_CHANGE))
    assert not list(differences(manifest.spec, same, set(RunSpec.model_fields) - {*switches, *limits}))
    assert flags["checkpoint_dir"] == str(tmp_path)


@pytest.mark.parametrize(("asked", "limit"), [(None, 40), ("10", 10), ("100", 40), ("0.5", 20), ("1%", 1), ("10%", 4)])
def test_limits_are_numbers_or_shares(asked: str | None, limit: int) -> None:
    assert limited(40, asked, "limit_val_batches") == limit


@pytest.mark.parametrize("asked", ["0", "-1", "x", "1.5", "200%"])
def test_senseless_limits_are_refused(asked: str) -> None:
    with pytest.raises(UserError, match="--limit-val-batches"):
        limited(40, asked, "limit_val_batches")


def test_targets_know_their_direction() -> None:
    assert target("val_accuracy=0.97") == Target(metric="accuracy", value=0.97, higher=True)
    assert target("perplexity=10") == Target(metric="perplexity", value=10.0, higher=False)
    with pytest.raises(UserError, match="NAME=VALUE"):
        target("accuracy")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint-dir", "/proc/nowhere"], "the folder of checkpoints '/proc/nowhere' cannot be written"),
        (["--checkpoint-dir", "file/below"], "the folder of checkpoints 'file/below' cannot be written"),
        (["--save-async", "--staging-dir", "file"], "checkpoints are written first 'file' cannot be written"),
        (["--save-async", "--workload", "llama", "--size", "70b"], "it takes at least 1,0"),
        (["--resume", "file"], "file holds no whole checkpoint"),
    ],
)
def test_where_nothing_can_be_written_or_read_is_told_before_launch(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert exit_code(["train", "--strategy", "ddp", "--device", "cpu", "--data", "synthetic", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--strategy", "ddp,fsdp"],
        ["--strategy", "ddp", "--resume", "nowhere"],
        ["--strategy", "ddp", "--steps", "0"],
        ["--strategy", "ddp", "--lr-rule", "cubic"],
        ["--strategy", "ddp", "--target", "loss"],
        ["--strategy", "fsdp", "--validate-on", "rank0", "--gpus", "2"],
        ["--strategy", "ddp", "--samples", "4"],
        ["--strategy", "ddp", "--fid-samples", "4"],
        ["--strategy", "ddp", "--lr-rule-by", "gpus"],
        ["--strategy", "ddp", "--micro-batch", "auto"],
        ["--strategy", "ddp", "--size", "max"],
        ["--strategy", "ddp", "--test-data", "own"],
        ["--strategy", "ddp", "--fid-extractor", "nowhere.py:features"],
        [],
    ],
)
def test_a_wrong_command_is_told_in_a_sentence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(["train", "--device", "cpu", "--data", "synthetic", *arguments]) == 2
    assert capsys.readouterr().err.startswith("scalebench: error: ")


def test_what_cannot_be_validated_or_shown_is_told_before_anything_starts() -> None:
    with pytest.raises(UserError, match="rank 0 of fsdp cannot evaluate while the others wait"):
        require_possible(make_spec(strategy="fsdp", world_size=2), recipe(validate_on="rank0"))
    for strategy in ("ddp", "ddp_static_graph"):
        require_possible(make_spec(strategy=strategy, world_size=2), recipe(validate_on="rank0"))
    with pytest.raises(UserError, match="gpt makes no pictures"):
        require_possible(make_spec(), recipe(samples=4))
    judged = recipe(fid=Fid(extractor="a:b", metric="fid_b_0"))
    with pytest.raises(UserError, match="what segmentation makes is not like its data"):
        require_possible(make_spec(workload="segmentation", size="tiny"), judged)


@pytest.mark.parametrize(
    ("workload", "metrics"),
    [("gpt", ["loss", "perplexity"]), ("classifier", ["loss", "accuracy"]), ("vavae", ["loss", "l1", "kl", "psnr"])],
)
def test_metrics_are_known_before_anything_starts(workload: str, metrics: list[str]) -> None:
    spec = make_spec(workload=workload, size="tiny", data="synthetic")
    for name in metrics:
        require_possible(spec, recipe(monitor=name))
    said = f"validation knows no acuracy. Allowed: {', '.join(metrics)}"
    with pytest.raises(UserError, match=said):
        require_possible(spec, recipe(monitor="acuracy"))
    with pytest.raises(UserError, match=said):
        require_possible(spec, recipe(target=Target(metric="acuracy", value=0.9, higher=True)))


def test_what_only_values_tell_is_left_to_the_first_validation() -> None:
    require_possible(make_spec(workload="segmentation", size="tiny", data="synthetic"), recipe(monitor="mean_iuo"))


def test_a_resumed_training_is_judged_as_it_was() -> None:
    lengths = lambda spec, recipe: (10, 4)  # noqa: E731
    asked = {"test": True, "val_share": 0.2, "validate_on": "rank0", "samples": 4}
    before, spec = resolved(make_spec(), asked, lengths)
    assert (before.test_share, before.test_data) == (0.2, None)
    manifest = Manifest(step=3, elapsed_seconds=1.0, contents="full", spec=spec, recipe=before)
    again, _ = resolved(spec, resuming_flags(Path("c/step-3"), manifest, {}), lengths)
    assert again == before
    elsewhere, _ = resolved(spec, resuming_flags(Path("c/step-3"), manifest, {"test_data": "digits"}), lengths)
    assert (elsewhere.test_share, elsewhere.test_data) == (None, "digits")
