"""The loss scale lies where the gradients are, whatever device the loss is on."""

from __future__ import annotations

import pytest
import torch

from scalebench.strategies.config import TrainConfig
from scalebench.strategies.loss_scaling import LossScaler

CPU = torch.device("cpu")


def test_the_scale_stays_beside_the_gradients_when_the_loss_is_elsewhere() -> None:
    """As with parameters offloaded to the CPU: everything that is read there has been computed there."""
    scaler = LossScaler(TrainConfig(precision="fp16"), CPU)
    assert scaler.scale(torch.tensor(1.0, device="meta")).device.type == "meta"
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.full((3,), float("inf"))
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    before = scaler.get_scale()
    scaler.update()
    assert (scaler.skipped_steps(), scaler.get_scale()) == (1, before / 2)
    assert parameter.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_fp16_nothing_is_scaled(precision: str) -> None:
    scaler = LossScaler(TrainConfig(precision=precision), CPU)  # type: ignore[arg-type]
    loss = torch.tensor(1.0)
    assert scaler.scale(loss) is loss
    assert scaler.applied() is None
