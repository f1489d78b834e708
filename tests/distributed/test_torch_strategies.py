"""The torch strategies against a plain PyTorch loop, on real ranks: losses, gradient norms and parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from scalebench import strategies
from scalebench.strategies.base import TrainStep
from scalebench.strategies.config import OptimizerConfig, OptimizerName, TrainConfig
from tests.distributed.ranks import run_ranks
from tests.distributed.toy import LEARNING_RATE, WEIGHT_DECAY, Toy, Trace, train_plainly

STEPS = 5
CLIP_NORM = 1.1  # binds on the toy's first steps and not on its last ones
TOY = Toy()


def config(optimizer: OptimizerName, **changes: Any) -> TrainConfig:
    """The training of `train_plainly`, as a strategy is told it."""
    return dataclasses.replace(
        TrainConfig(
            accumulation=2,
            clip_norm=CLIP_NORM,
            optimizer=OptimizerConfig(
                name=optimizer, learning_rate=LEARNING_RATE[optimizer], weight_decay=WEIGHT_DECAY, momentum=0.9
            ),
        ),
        **changes,
    )


def prepare(name: str, training: TrainConfig, toy: Toy = TOY) -> TrainStep:
    return strategies.create(name).prepare(toy, training, torch.device("cpu"))


def train(name: str, training: TrainConfig, toy: Toy = TOY) -> tuple[dict[str, Tensor], Trace]:
    """Start parameters, and the trace of `STEPS` steps; losses are this rank's."""
    step = prepare(name, training, toy)
    start = dict(step.full_parameters())
    rank = dist.get_rank() if dist.is_initialized() else 0
    losses, norms = [], []
    for index in range(STEPS):
        losses.append(step(toy.share(index, rank, training.accumulation)).item())
        norm = step.grad_norm()
        assert norm is not None
        norms.append(norm.item())
    return start, Trace(losses=losses, norms=norms, parameters=dict(step.full_parameters()))


def train_all(names: list[str], training: TrainConfig) -> dict[str, tuple[dict[str, Tensor], Trace]]:
    return {name: train(name, training) for name in names}


def assert_parity(traces: list[Trace], reference: Trace, start: dict[str, Tensor], tolerance: float) -> None:
    """Mean loss over ranks, gradient norm on every rank and parameters on every rank are the reference's."""
    mean_losses = torch.tensor([trace.losses for trace in traces], dtype=torch.float64).mean(0)
    torch.testing.assert_close(mean_losses, torch.tensor(reference.losses, dtype=torch.float64), rtol=tolerance, atol=0)
    for trace in traces:
        assert trace.norms == pytest.approx(reference.norms, rel=tolerance)
        moved = distance(start, reference.parameters)
        assert distance(trace.parameters, reference.parameters) <= tolerance * moved


def distance(some: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    assert some.keys() == others.keys()
    return sum((some[name] - others[name]).double().pow(2).sum().item() for name in some) ** 0.5


@pytest.fixture(scope="module")
def start() -> dict[str, Tensor]:
    return dict(prepare("single", config("sgd")).full_parameters())


TOLERANCE = 3e-6
"""fp32 rounding is 6e-8 relative; five steps and sums in other orders leave a few times 1e-7, AdamW somewhat more."""


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_single_trains_like_plain_pytorch(optimizer: OptimizerName, start: dict[str, Tensor]) -> None:
    _, trace = train("single", config(optimizer, accumulation=4))
    reference = train_plainly(TOY, start, optimizer, STEPS, micro_batches=4, clip_norm=CLIP_NORM)
    assert max(reference.norms) > CLIP_NORM > min(reference.norms)
    assert_parity([trace], reference, start, TOLERANCE)


REPLICATED = ["ddp", "ddp_find_unused_parameters_true", "ddp_static_graph"]
SHARDED = ["fsdp", "fsdp_shard_grad_op", "fsdp_hybrid", "fsdp_cpu_offload", "fsdp1"]


@pytest.mark.distributed
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("grad_sync", ["last", "every_micro_batch"])
def test_two_ranks_train_like_plain_pytorch(optimizer: OptimizerName, grad_sync: str, start: dict[str, Tensor]) -> None:
    ranks = run_ranks(train_all, 2, REPLICATED + SHARDED, config(optimizer, grad_sync=grad_sync))
    reference = train_plainly(TOY, start, optimizer, STEPS, micro_batches=4, clip_norm=CLIP_NORM)
    for name in REPLICATED + SHARDED:
        for its_start, _ in (rank[name] for rank in ranks):
            assert all(torch.equal(its_start[key], start[key]) for key in start), f"{name} starts elsewhere"
        assert_parity([rank[name][1] for rank in ranks], reference, start, TOLERANCE)
