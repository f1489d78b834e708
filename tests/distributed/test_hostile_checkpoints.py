"""Saved state that would run code when read as Python objects is refused, and the code is not run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import save

from scalebench.strategies.loss_scaling import LossScaler
from scalebench.strategies.safe_reading import CodeFoundError
from scalebench.strategies.saved_state import load_state, save_state
from scalebench.training.checkpoints import random_file
from scalebench.training.manifest import MANIFEST, HeldFile, read_manifest, sha256_of
from tests.distributed.ranks import run_ranks
from tests.distributed.test_saved_state import train_on
from tests.distributed.test_training import facts, recipe, small
from tests.distributed.test_training import train as training
from tests.distributed.toy import Toy
from tests.distributed.training import prepare, toy_config

pytestmark = pytest.mark.distributed


class Hostile:
    """Makes the file at `path` when it is read back by pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def trained() -> tuple[nn.Module, torch.optim.Optimizer, LossScaler]:
    module = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.125)
    return module, optimizer, LossScaler(toy_config("adamw"), torch.device("cpu"))


def test_what_is_hostile_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Hostile(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


def test_a_description_that_is_code_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state", *trained())
    load_state(tmp_path / "state", *trained())
    (tmp_path / "state" / ".metadata").write_bytes(pickle.dumps(Hostile(tmp_path / "touched")))
    with pytest.raises(CodeFoundError, match=r"posix\.system"):
        load_state(tmp_path / "state", *trained())
    assert not (tmp_path / "touched").exists()


def test_code_among_the_values_is_refused(tmp_path: Path) -> None:
    module, optimizer, scaler = trained()
    optimizer.param_groups[0]["lr"] = Hostile(tmp_path / "touched")
    save_state(tmp_path / "state", module, optimizer, scaler)
    with pytest.raises(CodeFoundError, match=r"posix\.system"):
        load_state(tmp_path / "state", *trained())
    assert not (tmp_path / "touched").exists()


def take_up(name: str, folder: Path) -> None:
    prepare(name, toy_config("adamw", ema_decay=0.9), Toy()).load(folder)


def poisoned(file: Path, touched: Path) -> None:
    """`file` of torch.save, with something hostile beside what it holds."""
    held: Any = torch.load(file, weights_only=False)
    torch.save({"beside": Hostile(touched), "held": held} | (held if isinstance(held, dict) else {}), file)


@pytest.mark.parametrize(
    "pattern",
    [
        "engine/*optim_states.pt",
        *(pytest.param(pattern, marks=pytest.mark.slow) for pattern in ("engine/*model_states.pt", "averages-0.pt")),
    ],
)
def test_code_in_files_of_deepspeed_is_refused(pattern: str, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    run_ranks(train_on, 1, "deepspeed_stage_2", tmp_path / "state", 0)
    (file,) = (tmp_path / "state").glob(pattern)
    poisoned(file, tmp_path / "touched")
    with pytest.raises(AssertionError, match=r"CodeFoundError.*posix\.system"):
        run_ranks(take_up, 1, "deepspeed_stage_2", tmp_path / "state")
    assert not (tmp_path / "touched").exists()


def test_a_training_refuses_it_in_a_sentence(tmp_path: Path) -> None:
    """The manifest agrees with what was put in: whoever can write the one can write the other."""
    facts(training(tmp_path / "c", small("single", 1), recipe(steps=2)))
    checkpoint = tmp_path / "c" / "step-00000002"
    torch.save(Hostile(tmp_path / "touched"), checkpoint / random_file(0))
    manifest = read_manifest(checkpoint)
    held = HeldFile(
        file_bytes=(checkpoint / random_file(0)).stat().st_size, sha256=sha256_of(checkpoint / random_file(0))
    )
    forged = manifest.model_copy(update={"files": manifest.files | {random_file(0): held}})
    (checkpoint / MANIFEST).write_text(forged.model_dump_json())
    record = training(tmp_path / "c", small("single", 1), recipe(steps=4), resume=checkpoint)
    assert record.status == "failed"
    assert record.reason is not None
    assert f"the checkpoint {checkpoint} holds code (posix.system), which no training saves" in record.reason
    assert not (tmp_path / "touched").exists()


@pytest.mark.filterwarnings("ignore:torch.distributed")
def test_a_foreign_folder_says_what_is_missing(tmp_path: Path) -> None:
    save({"other": torch.zeros(2)}, checkpoint_id=tmp_path / "state")
    with pytest.raises(RuntimeError, match="Missing key"):
        load_state(tmp_path / "state", *trained())
