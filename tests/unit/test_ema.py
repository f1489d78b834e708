"""The moving average against its formula, through steps taken and steps dropped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scalebench.strategies.ema import MovingAverage
from tests.distributed.toy import Toy
from tests.distributed.training import prepare, same_bits, toy_config

DECAY = 0.9
TOY = Toy()


def averages(step_by_step: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """By the formula, in fp64, from the parameters at the start and after each step."""
    mean = {name: value.double() for name, value in step_by_step[0].items()}
    for after in step_by_step[1:]:
        mean = {name: DECAY * value + (1 - DECAY) * after[name].double() for name, value in mean.items()}
    return mean


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "bf16-true"])
def test_the_average_is_the_formulas_and_is_not_in_the_way_of_training(precision: str) -> None:
    config = toy_config("adamw", precision=precision, ema_decay=DECAY)
    step, plain = prepare("single", config, TOY), prepare("single", dataclasses.replace(config, ema_decay=None), TOY)
    seen = [dict(step.full_parameters())]
    for index in range(4):
        assert torch.equal(step(TOY.share(index, 0, 2)), plain(TOY.share(index, 0, 2)))
        seen.append(dict(step.full_parameters()))
        expected = averages(seen)
        rounding = 4e-3 if precision == "bf16-true" else 1e-6  # averages are fp32, and rounded where they are looked at
        for name, value in step.full_parameters(ema=True):
            assert torch.allclose(value.double(), expected[name], rtol=rounding, atol=rounding), name
        assert same_bits(dict(step.full_parameters()), seen[-1]), "looking at the averages changes no parameter"
    assert same_bits(dict(plain.full_parameters()), seen[-1])


def test_a_step_that_loss_scaling_drops_leaves_the_average_as_it_was() -> None:
    spiked = Toy(spike_step=1)
    step = prepare("single", toy_config("adamw", precision="fp16", ema_decay=DECAY), spiked)
    step(spiked.share(0, 0, 2))
    before = dict(step.full_parameters(ema=True))
    step(spiked.share(1, 0, 2))
    assert step.skipped_steps() == 1
    assert same_bits(before, dict(step.full_parameters(ema=True)))
    step(spiked.share(2, 0, 2))
    assert not same_bits(before, dict(step.full_parameters(ema=True)))


def test_small_changes_of_16_bit_values_are_not_rounded_away() -> None:
    parameter = torch.ones(1, dtype=torch.bfloat16)
    average = MovingAverage(lambda: [parameter], decay=0.999)
    parameter.fill_(1.0078125)  # the next bf16 above 1: a thousandth of the difference is far below what bf16 holds
    for _ in range(2000):
        average.update()
    with average.in_place_of_parameters():
        assert parameter.item() == 1.0078125
    expected = 1.0078125 - 0.0078125 * 0.999**2000
    assert average.shares[0].item() == pytest.approx(expected, abs=1e-5)


def test_16_bit_parameters_averages_are_saved_as_they_are(tmp_path: Path) -> None:
    config = toy_config("adamw", precision="bf16-true", ema_decay=DECAY)
    step, other = prepare("single", config, TOY), prepare("single", config, TOY)
    for index in range(3):
        step(TOY.share(index, 0, 2))
    step.save(tmp_path / "state")
    other.load(tmp_path / "state")
    for mine, loaded in zip(step._average.shares, other._average.shares, strict=True):
        assert torch.equal(mine, loaded)
        assert not torch.equal(mine, mine.bfloat16().float())


def test_without_a_decay_there_is_no_average_to_look_at() -> None:
    step = prepare("single", toy_config("sgd"), TOY)
    with pytest.raises(AssertionError, match="ema_decay is not set"):
        next(iter(step.full_parameters(ema=True)))
