"""What one process puts together from the ranks' shares is what the ranks themselves have gathered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scalebench import load_checkpoint, workloads
from scalebench.cli.main import exit_code
from scalebench.training.manifest import AVERAGES, STATE, WEIGHTS, checkpoints_in, read_manifest
from scalebench.training.parts import parts
from scalebench.training.weights import sharded_values
from tests.distributed.test_training import SMALL, facts, recipe, small, train
from tests.distributed.training import FP32_TOLERANCE, same_bits

pytestmark = pytest.mark.distributed

SHORT = {"steps": 2, "val_every": 2, "save_every": None}
SLOW = [("single", 1), *((name, 2) for name in ("ddp", "fsdp1", *(f"deepspeed_stage_{n}" for n in range(3))))]


@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [("fsdp", 2), ("deepspeed_stage_3", 2), *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW)],
)
def test_shares_are_put_together_to_the_bit(strategy: str, ranks: int, tmp_path: Path) -> None:
    facts(train(tmp_path / "c", small(strategy, ranks), recipe(**SHORT)))
    (checkpoint,) = checkpoints_in(tmp_path / "c")
    manifest = read_manifest(checkpoint)
    gathered = load_file(checkpoint / WEIGHTS)
    assert same_bits(dict(sharded_values(checkpoint, manifest, ema=False)), gathered)
    if not strategy.startswith("deepspeed"):
        averages = load_file(checkpoint / AVERAGES)
        assert same_bits(dict(sharded_values(checkpoint, manifest, ema=True)), averages)
        assert not same_bits(averages, gathered)


def test_a_checkpoint_of_shares_alone_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = small("fsdp", workload_options=SMALL | {"dropout": 0.0})
    asked = recipe(**SHORT, contents="state", val_share=0.0013, test_share=0.0013)
    tested = facts(train(tmp_path / "c", spec, asked)).test
    (checkpoint,) = checkpoints_in(tmp_path / "c")
    assert {name.partition("/")[0] for name in read_manifest(checkpoint).files} == {STATE, "random-0.pt", "random-1.pt"}
    file = tmp_path / "out" / "model.safetensors"
    assert exit_code(["train", "--export", str(tmp_path / "c"), "--output", str(file)]) == 0
    assert str(file) in capsys.readouterr().out
    module = load_checkpoint(tmp_path / "c")
    trained = dict(module.named_parameters())
    assert same_bits(trained, {name: value for name, value in load_file(file).items() if name in trained})
    held = parts(workloads.create("gpt", "tiny", spec.workload_options), spec, asked).test
    assert tested is not None
    assert held is not None
    assert tested.metrics["loss"] == pytest.approx(module(held.__getitems__(range(5))).item(), rel=FP32_TOLERANCE)
    assert exit_code(["train", "--export", str(tmp_path / "c"), "--output", str(file)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert exit_code(["train", "--export", str(tmp_path / "c"), "--averages"]) == 0
    name = next(iter(trained))
    averages = load_file(tmp_path / "c" / f"{checkpoint.name}-averages.safetensors")
    assert torch.equal(averages[name], load_checkpoint(tmp_path / "c", ema=True).get_parameter(name))


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(4, 3)
    def forward(self, x):
        return self.model(x)

def make():
    data = torch.utils.data.TensorDataset(torch.randn(40, 4), torch.arange(40) % 3)
    return Net(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])), data
"""


def test_a_model_of_ones_own_is_saved_by_its_authors_names(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    own = {"workload": f"{tmp_path}/mine.py:make", "size": "own", "workload_options": {}, "data": "own"}
    tested = facts(train(tmp_path / "c", small("single", 1, **own), recipe(**SHORT, test_share=0.2))).test
    assert tested is not None  # on a model that was built anew, its loss too
    (checkpoint,) = checkpoints_in(tmp_path / "c")
    saved = load_file(checkpoint / WEIGHTS)
    assert saved.keys() == {"model.weight", "model.bias", "loss.weight"}
    found = load_checkpoint(tmp_path / "c")
    assert type(found).__name__ == "Net"
    assert same_bits(dict(found.state_dict()), {name: saved[name] for name in ("model.weight", "model.bias")})
    shares = sharded_values(checkpoint, read_manifest(checkpoint), ema=False)
    assert same_bits({name.removeprefix("model."): value for name, value in shares}, saved)


def test_what_cannot_be_exported_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts(train(tmp_path / "c", small("single", 1), recipe(**SHORT)))
    (checkpoint,) = checkpoints_in(tmp_path / "c")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "pytorch_model.bin").touch()
    weights = bytearray((checkpoint / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (checkpoint / WEIGHTS).write_bytes(weights)
    told = {
        ("--export", str(tmp_path / "foreign")): "holds no whole checkpoint",
        ("--export", str(checkpoint)): f"{WEIGHTS} is not what was written",
        (
            "--export",
            str(checkpoint),
            "--averages",
            "--output",
            "/proc/nowhere/x",
        ): "/proc/nowhere/x could not be written",
        ("--export", str(checkpoint), "--strategy", "ddp"): "Leave --strategy out",
        ("--output", "x"): "Name it: --export PATH",
    }
    for arguments, words in told.items():
        assert exit_code(["train", *arguments]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_exported_starts_another_strategy(tmp_path: Path) -> None:
    """The first loss under ddp is that of the model which fsdp has trained."""
    options = {"workload_options": SMALL | {"dropout": 0.0}, "ema_decay": None}
    facts(train(tmp_path / "c", small("deepspeed_stage_3", **options), recipe(**SHORT)))
    file = str(tmp_path / "c" / "step-00000002" / WEIGHTS)
    straight = train(tmp_path / "straight", small("deepspeed_stage_3", **options), recipe(steps=1, val_every=1))
    started = train(tmp_path / "ddp", small("ddp", **options, init_from=file), recipe(steps=1, val_every=1))
    assert started.ranks[0].losses[0] < straight.ranks[0].losses[0]
