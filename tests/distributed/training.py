"""Train the toy under a strategy, and say how near the result is to plain PyTorch's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from scalebench import strategies
from scalebench.spec import RunSpec
from scalebench.strategies.base import TrainStep
from scalebench.strategies.config import OptimizerConfig, OptimizerName, TrainConfig
from tests.distributed.toy import LEARNING_RATE, WEIGHT_DECAY, Toy, Trace

STEPS = 5
CLIP_NORM = 1.1
"""Binds on the toy's first steps and not on its last ones."""
FP32_TOLERANCE = 3e-6
"""fp32 rounds to 6e-8 of a value: five steps, and sums taken in another order, leave some 1e-7 to 1e-6."""
CPU = torch.device("cpu")


def toy_config(optimizer: OptimizerName, **changes: Any) -> TrainConfig:
    """The training of `train_plainly`, as a strategy is told it: two micro-batches per rank."""
    settings = OptimizerConfig(
        name=optimizer, learning_rate=LEARNING_RATE[optimizer], weight_decay=WEIGHT_DECAY, momentum=0.9
    )
    return dataclasses.replace(TrainConfig(accumulation=2, clip_norm=CLIP_NORM, optimizer=settings), **changes)


def prepare(name: str, config: TrainConfig, toy: Toy, options: Mapping[str, Any] | None = None) -> TrainStep:
    return strategies.create(name, options).prepare(toy, config, CPU)


def supported(specs: list[RunSpec]) -> list[RunSpec]:
    """Those that run here at all: FSDP2 of torch 2.6, for one, does not on a CPU."""
    strategy = {spec.strategy: strategies.create(spec.strategy, spec.strategy_options) for spec in specs}
    found = [s for s in specs if not strategy[s.strategy].unsupported_reason(s.train_config(), "cpu", s.world_size)]
    assert found
    return found


def train(
    name: str, config: TrainConfig, toy: Toy, options: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], Trace]:
    """This rank's start parameters, and its trace of `STEPS` steps (its own losses)."""
    step = prepare(name, config, toy, options)
    start = dict(step.full_parameters())
    losses, norms = [], []
    for index in range(STEPS):
        losses.append(step(toy.share(index, rank(), config.accumulation)).item())
        norm = step.grad_norm()
        norms.append(float("nan") if norm is None else norm.item())
    return start, Trace(losses=losses, norms=norms, parameters=dict(step.full_parameters()))


def evaluated_loss(step: TrainStep, batch: Mapping[str, Tensor]) -> float:
    """The mean loss of `batch` by the sums of an evaluation."""
    sums = step.evaluate(batch)
    return (sums["loss_sum"] / sums["samples"]).item()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def assert_parity(traces: list[Trace], reference: Trace, start: dict[str, Tensor], tolerance: float) -> None:
    """Mean loss over the ranks, gradient norms and movement of the parameters on every rank are the reference's."""
    losses = [sum(each) / len(traces) for each in zip(*(trace.losses for trace in traces), strict=True)]
    assert losses == pytest.approx(reference.losses, rel=tolerance)
    moved = distance(start, reference.parameters)
    for trace in traces:
        assert trace.norms == pytest.approx(reference.norms, rel=tolerance)
        assert distance(trace.parameters, reference.parameters) <= tolerance * moved


def distance(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    """2-norm of the difference of two sets of parameters of the same names."""
    assert some.keys() == others.keys()
    return sum((some[name] - others[name]).double().pow(2).sum().item() for name in some) ** 0.5


def same_bits(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)
