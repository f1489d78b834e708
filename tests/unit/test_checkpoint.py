"""Starting from a checkpoint: layouts found in the wild, mismatches named, nothing in a file ever run."""

from __future__ import annotations

import argparse
import builtins
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scalebench.errors import UserError
from scalebench.machine import Machine
from scalebench.matrix import Request, RequestError, resolve
from scalebench.strategies.config import TrainConfig
from scalebench.training.manifest import WEIGHTS
from scalebench.workloads.checkpoint import matching_state, started
from scalebench.workloads.checkpoint_name import checkpoint_sha256, resolve_checkpoint
from tests.processes import printed
from tests.unit.image_batches import built, made


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Values that no seed of a test gives."""
    return dict(built(made("conv"), TrainConfig(seed=77)).state_dict())


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def same(found: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


LAYOUTS = {
    "bare": lambda state: state,
    "lightning": lambda state: {
        "epoch": 3,
        "state_dict": {**prefixed(state, "model."), "loss.discriminator.weight": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "hyper_parameters": {"lr": 1e-4, "name": "x"},
    },
    "the module itself": lambda state: {"state_dict": state, "pytorch-lightning_version": "2.6"},
    "ddp": lambda state: prefixed(state, "module."),
    "compiled": lambda state: {"model": prefixed(state, "_orig_mod.")},
    "compiled in pieces": lambda state: {n.replace("blocks.0.", "blocks.0._orig_mod."): v for n, v in state.items()},
    "ema beside a smaller part": lambda state: {"ema": state, "model": {"head.bias": torch.zeros(10)}},
    "half": lambda state: {name: value.half() for name, value in state.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_in_use_are_looked_through(layout: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(LAYOUTS[layout](state), path)
    module = built(started(made("conv"), str(path)))
    exact = {name: value.half().float() if layout == "half" else value for name, value in state.items()}
    assert same(dict(module.state_dict()), exact)


def test_the_old_format_and_safetensors_are_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    safetensors.save_file(prefixed(state, "net."), tmp_path / "new.safetensors")
    for name in ("old.pt", "new.safetensors"):
        assert same(matching_state(made("conv"), str(tmp_path / name)), state)


def test_a_tied_parameter_may_stand_there_twice(tmp_path: Path) -> None:
    from scalebench import workloads

    gpt = workloads.create("gpt", "tiny", {"num_layers": 1, "hidden_size": 8})
    module = built(gpt)
    torch.save(module.state_dict(), tmp_path / "gpt.pt")
    assert "head.weight" in module.state_dict()
    assert "head.weight" not in matching_state(gpt, str(tmp_path / "gpt.pt"))


def test_a_model_of_ones_own_is_started_from_its_own_file(tmp_path: Path) -> None:
    from scalebench import workloads

    (tmp_path / "mine.py").write_text(OWN)
    own = workloads.create(f"{tmp_path}/mine.py:make", "own", {})
    torch.save({"state_dict": prefixed(nn.Linear(4, 3).state_dict(), "net.")}, tmp_path / "x.ckpt")
    values = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    module = built(started(own, str(tmp_path / "x.ckpt")))
    for name, value in module.state_dict().items():
        assert torch.equal(value, values[f"net.{name.removeprefix('model.')}"])
    torch.save(nn.Linear(5, 3).state_dict(), tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="weight is 3x5, not 3x4"):
        started(own, str(tmp_path / "other.ckpt"))


OWN = """
import torch

def make():
    data = torch.utils.data.TensorDataset(torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64))
    return torch.nn.Linear(4, 3), torch.nn.functional.cross_entropy, data
"""


def test_a_real_lightning_checkpoint_is_read(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Tutorial(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, rate: float = 1e-3, name: str = "conv") -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = built(made("conv"), TrainConfig(seed=5))

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            labels = torch.zeros(len(batch[0]), dtype=torch.int64)
            loss: Tensor = self.model({"images": batch[0], "labels": labels})
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    tutorial = Tutorial()
    images = torch.randint(256, (4, 1, 10, 10), dtype=torch.uint8)
    trainer.fit(tutorial, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=2))
    (path,) = tmp_path.rglob("*.ckpt")
    assert same(matching_state(made("conv"), str(path)), dict(tutorial.model.state_dict()))


def refusal(tmp_path: Path, held: Any, prefix: str = "") -> str:
    torch.save(held, tmp_path / "x.ckpt")
    with pytest.raises(UserError) as caught:
        matching_state(made("conv"), str(tmp_path / "x.ckpt") + prefix)
    return str(caught.value)


def test_mismatches_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = {name: value for name, value in state.items() if not name.startswith("neck")}
    wrong |= {"head.weight": torch.zeros(7, 8), "head.extra": torch.zeros(1)}
    said = refusal(tmp_path, wrong)
    for words in (
        "not of classifier tiny as asked",
        "2 missing (neck.hidden.linear.weight, neck.hidden.linear.bias)",
        "1 unexpected (head.extra)",
        "1 of another shape (head.weight is 7x8, not 10x8)",
        "--set workload.",
    ):
        assert words in said


def test_a_model_that_is_there_twice_is_asked_for_by_its_prefix(state: dict[str, Tensor], tmp_path: Path) -> None:
    ema = {name: value + 1 for name, value in state.items()}
    held = {"state_dict": {**prefixed(state, "model."), **prefixed(ema, "ema.")}}
    said = refusal(tmp_path, held)
    assert "under 'state_dict.model' and 'state_dict.ema'" in said
    assert f"{tmp_path}/x.ckpt@state_dict.ema'" in said
    assert same(matching_state(made("conv"), f"{tmp_path}/x.ckpt@state_dict.ema"), ema)
    assert "no model under 'emma', but under 'state_dict.model'" in refusal(tmp_path, held, "@emma")


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, nn.LSTM(3, 4).state_dict())
    assert "no parameter of this model; it begins with weight_ih_l0" in said
    assert "holds a list" in refusal(tmp_path, [1, 2])
    assert "no parameter of this model" in refusal(tmp_path, {})


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.open, (str(self.target), "w")


def test_code_in_a_checkpoint_is_refused_and_not_run(state: dict[str, Tensor], tmp_path: Path) -> None:
    said = refusal(tmp_path, {"state_dict": state, "callback": Evil(tmp_path / "ran")})
    assert "holds code" in said
    assert "open" in said
    assert "torch.save(" in said
    assert not (tmp_path / "ran").exists()
    assert "argparse.Namespace" in refusal(tmp_path, {"state_dict": state, "args": argparse.Namespace(lr=1)})
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(UserError, match="no checkpoint that torch can read"):
        matching_state(made("conv"), str(tmp_path / "x.ckpt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 a torn archive"])
def test_damaged_files_are_told_in_one_sentence(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^/.* is no checkpoint that torch can read, or is damaged"):
        matching_state(made("conv"), str(path))


def test_a_truncated_checkpoint_is_told_in_one_sentence(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match="damaged"):
        matching_state(made("conv"), str(path))


CPU = Machine(device="cpu", gpu_count=0, cores=2, bf16_native=False)


def test_the_file_and_its_contents_are_part_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"first")
    monkeypatch.chdir(tmp_path)
    ask = Request(strategy="ddp", gpus=1, baseline=False, init_from=["none", "x.ckpt"])
    plain, first = resolve(ask, CPU)
    assert (plain.init_from, first.init_from) == (None, str(path))
    path.write_bytes(b"second")
    second = resolve(ask, CPU)[1]
    assert len({plain.cell_id, first.cell_id, second.cell_id}) == 3
    assert plain.init_from_sha256 is None
    excluding = Request(**{**ask.model_dump(exclude_none=True), "exclude": [{"init_from": "./x.ckpt"}]})
    assert [spec.init_from for spec in resolve(excluding, CPU)] == [None]


def test_a_missing_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    for given, words in (("nowhere.ckpt", "does not exist"), (str(tmp_path), "is a folder")):
        with pytest.raises(RequestError, match=words) as caught:
            resolve(Request(strategy="ddp", gpus=1, init_from=given), CPU)
        assert caught.value.key == ("init_from",)


def test_a_folder_of_train_stands_for_its_weights(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).touch()
    assert resolve_checkpoint(str(tmp_path)) == str(tmp_path / WEIGHTS)


def test_an_at_sign_in_a_path_is_no_prefix(tmp_path: Path) -> None:
    (tmp_path / "a@b.ckpt").write_bytes(b"x")
    assert resolve_checkpoint(f"{tmp_path}/a@b.ckpt") == f"{tmp_path}/a@b.ckpt"
    assert resolve_checkpoint(f"{tmp_path}/a@b.ckpt@ema") == f"{tmp_path}/a@b.ckpt@ema"
    assert checkpoint_sha256(f"{tmp_path}/a@b.ckpt@ema") == checkpoint_sha256(f"{tmp_path}/a@b.ckpt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"x")
    (tmp_path / "x.ckpt").chmod(0)
    with pytest.raises(UserError, match="cannot read"):
        resolve_checkpoint(str(tmp_path / "x.ckpt"))


def test_a_missing_safetensors_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"scalebench-suite\[checkpoints\]"):
        matching_state(made("conv"), str(tmp_path / "x.safetensors"))


def test_names_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"x")
    code = f"""
import sys
from scalebench.workloads.checkpoint_name import checkpoint_sha256, resolve_checkpoint
checkpoint_sha256(resolve_checkpoint({str(tmp_path / "x.ckpt")!r}))
assert "torch" not in sys.modules
"""
    printed("-c", code)
