"""What a strategy saves, another process takes up: as if nothing had happened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from tests.distributed.ranks import run_ranks
from tests.distributed.toy import Toy
from tests.distributed.training import FP32_TOLERANCE, distance, prepare, rank, same_bits, toy_config

pytestmark = pytest.mark.distributed

SAVED_AFTER, STEPS = 2, 4


@dataclass(frozen=True, kw_only=True)
class Going:
    """This rank's losses, and all parameters and their moving averages at the end."""

    losses: list[float]
    parameters: dict[str, Tensor]
    averages: dict[str, Tensor]


def train_on(name: str, folder: Path, first: int, changes: dict[str, object] | None = None) -> Going:
    """Trace `first` to `STEPS` of the toy, whose state after `SAVED_AFTER` is left in `folder`, or taken up there."""
    config, toy = toy_config("adamw", ema_decay=0.9, **(changes or {})), Toy()
    step = prepare(name, config, toy)
    if first:
        step.load(folder)
    losses = []
    for index in range(first, STEPS):
        if index == SAVED_AFTER and not first:
            step.save(folder)
        losses.append(step(toy.share(index, rank(), config.accumulation)).item())
    going = Going(losses=losses, parameters=dict(step.full_parameters()), averages=dict(step.full_parameters(ema=True)))
    step.close()
    return going


SEVERAL = ["ddp", "fsdp", "fsdp1", *(f"deepspeed_stage_{stage}" for stage in range(4))]


@pytest.mark.parametrize(("name", "ranks"), [("single", 1), *((name, 2) for name in SEVERAL)])
def test_what_goes_on_is_the_same_to_the_bit(name: str, ranks: int, tmp_path: Path) -> None:
    straight = run_ranks(train_on, ranks, name, tmp_path, 0)
    resumed = run_ranks(train_on, ranks, name, tmp_path, SAVED_AFTER)
    for one, other in zip(straight, resumed, strict=True):
        assert other.losses == one.losses[SAVED_AFTER:]
        assert same_bits(one.parameters, other.parameters)
        assert same_bits(one.averages, other.averages)
        assert not same_bits(one.averages, one.parameters)


@pytest.mark.parametrize(("name", "other", "ranks"), [("fsdp", "single", 1), ("ddp", "fsdp", 2)])
def test_other_ranks_and_other_torch_strategies_take_it_up(name: str, other: str, ranks: int, tmp_path: Path) -> None:
    straight = run_ranks(train_on, 2, name, tmp_path, 0)[0]
    changes = {"accumulation": 4 // ranks}
    resumed = run_ranks(train_on, ranks, other, tmp_path, SAVED_AFTER, changes)[0]
    size = sum(value.double().pow(2).sum().item() for value in straight.parameters.values()) ** 0.5
    assert distance(straight.parameters, resumed.parameters) <= FP32_TOLERANCE * size


def test_loss_scaling_goes_on_where_it_was(tmp_path: Path) -> None:
    changes = {"precision": "fp16"}
    straight = run_ranks(train_on, 2, "fsdp", tmp_path, 0, changes)
    resumed = run_ranks(train_on, 2, "fsdp", tmp_path, SAVED_AFTER, changes)
    assert [trace.losses for trace in resumed] == [trace.losses[SAVED_AFTER:] for trace in straight]
