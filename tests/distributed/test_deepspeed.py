"""DeepSpeed's engine against a plain PyTorch loop, on real ranks, at every stage; and that it is what was asked for.

Cells that need nothing but each other's end share one start of ranks: importing DeepSpeed costs more than running it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from scalebench import strategies
from scalebench.strategies import compat
from scalebench.strategies.base import TrainStep
from scalebench.strategies.config import OptimizerName, TrainConfig
from tests.distributed.ranks import run_ranks
from tests.distributed.toy import Toy, Trace, train_plainly
from tests.distributed.training import (
    CLIP_NORM,
    CPU,
    FP32_TOLERANCE,
    STEPS,
    assert_parity,
    evaluated_loss,
    same_bits,
    toy_config,
    train,
)

needs_deepspeed = [
    pytest.mark.distributed,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]
pytestmark = needs_deepspeed

TOY = Toy()
STAGES = (0, 1, 2, 3)
OPTIMIZERS: tuple[OptimizerName, ...] = ("sgd", "adamw")
BF16_TOLERANCE = 5e-2
"""Stages 1 to 3 store parameters in bf16 (8 bits: 4e-3 each), plain autocast does not: after five steps with SGD the
toy's losses differ by less than 1e-3, its gradient norms by 2e-2, its parameters by 1e-2 of the way they went."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of the toy under one strategy."""

    strategy: str
    training: TrainConfig
    options: dict[str, Any] = field(default_factory=dict)
    evaluated: bool = False


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a cell gave: its start, its trace, the loss before it, and what was observed of the engine."""

    start: dict[str, Tensor]
    trace: Trace
    evaluations: list[float]
    observed: dict[str, str]
    skipped: int
    offloaded: bool
    linear_restored: bool


def cell(
    strategy: str,
    optimizer: OptimizerName = "adamw",
    options: dict[str, Any] | None = None,
    evaluated: bool = False,
    **changes: Any,
) -> Cell:
    training = toy_config(optimizer, micro_batch=3, **{"grad_sync": strategies.default_grad_sync(strategy), **changes})
    return Cell(strategy=strategy, training=training, options=options or {}, evaluated=evaluated)


@contextmanager
def prepared(cell: Cell, toy: Toy = TOY) -> Iterator[TrainStep]:
    strategy = strategies.create(cell.strategy, cell.options)
    assert strategy.unsupported_reason(cell.training, "cpu", dist.get_world_size()) is None
    step = strategy.prepare(toy, cell.training, CPU)
    try:
        yield step
    finally:
        step.close()


def share(cell: Cell, index: int, toy: Toy = TOY) -> list[dict[str, Tensor]]:
    return toy.share(index, dist.get_rank(), cell.training.accumulation)


def run(cell: Cell) -> Seen:
    linear = torch.nn.functional.linear
    with prepared(cell) as step:
        start, evaluations, losses, norms = dict(step.full_parameters()), [], [], []
        for index in range(STEPS):
            if cell.evaluated:
                evaluations.append(evaluated_loss(step, TOY.micro_batch(index, 0)))
            losses.append(step(share(cell, index)).item())
            norms.append(norm_of(step))
        seen = Seen(
            start=start,
            trace=Trace(losses=losses, norms=norms, parameters=dict(step.full_parameters())),
            evaluations=evaluations,
            observed=dict(step.observed_precision()),
            skipped=step.skipped_steps(),
            offloaded=compat.is_offloaded(step.module),
            linear_restored=False,
        )
    return dataclasses.replace(seen, linear_restored=torch.nn.functional.linear is linear)


def norm_of(step: TrainStep) -> float:
    norm = step.grad_norm()
    assert norm is not None
    return norm.item()


def run_all(cells: list[Cell]) -> list[Seen]:
    return [run(cell) for cell in cells]


def reference(cell: Cell, start: dict[str, Tensor], ranks: int = 2, autocast: torch.dtype | None = None) -> Trace:
    return train_plainly(
        TOY,
        start,
        cell.training.optimizer.name,
        STEPS,
        micro_batches=ranks * cell.training.accumulation,
        clip_norm=cell.training.clip_norm,
        autocast=autocast,
    )


@pytest.fixture(scope="module")
def start() -> dict[str, Tensor]:
    return dict(strategies.create("single").prepare(TOY, toy_config("sgd"), CPU).full_parameters())


def check_start(seen: list[Seen], start: dict[str, Tensor]) -> None:
    for rank in seen:
        assert list(rank.start) == list(start)
        assert same_bits(rank.start, start)
        assert rank.linear_restored


FP32_CELLS = {
    **{f"stage {stage} {name}": cell(f"deepspeed_stage_{stage}", name) for stage in STAGES for name in OPTIMIZERS},
    "stage 2 holding back": cell("deepspeed_stage_2", grad_sync="last"),
    "stage 3 holding back": cell("deepspeed_stage_3", grad_sync="last"),
    "stage 2 offloaded": cell("deepspeed_stage_2_offload", "sgd"),
    "stage 3 offloaded": cell("deepspeed_stage_3_offload"),
    "stage 1 evaluated": cell("deepspeed_stage_1", evaluated=True),
    "stage 3 evaluated": cell("deepspeed_stage_3", evaluated=True),
    "stage 0 unclipped": cell("deepspeed_stage_0", clip_norm=None, record_grad_norm=True),
    "stage 3 as shipped": cell("deepspeed_stage_3", profile="backend-default"),
    "stage 3 checkpointed": cell("deepspeed_stage_3", activation_checkpointing=True),
    "a user's json": cell(
        "deepspeed",
        options={"config": {"train_batch_size": "auto", "zero_optimization": {"stage": 1, "reduce_bucket_size": 500}}},
        grad_sync="last",
    ),
}


@pytest.fixture(scope="module")
def fp32() -> dict[str, list[Seen]]:
    ranks = run_ranks(run_all, 2, list(FP32_CELLS.values()))
    return dict(zip(FP32_CELLS, map(list, zip(*ranks, strict=True)), strict=True))


@pytest.mark.parametrize("name", FP32_CELLS)
def test_two_ranks_train_like_plain_pytorch(name: str, fp32: dict[str, list[Seen]], start: dict[str, Tensor]) -> None:
    plain = reference(FP32_CELLS[name], start)
    assert max(plain.norms) > CLIP_NORM > min(plain.norms), "clipping binds on some steps and not on others"
    check_start(fp32[name], start)
    assert_parity([seen.trace for seen in fp32[name]], plain, start, FP32_TOLERANCE)


@pytest.mark.parametrize("name", FP32_CELLS)
def test_offload_is_what_was_asked(name: str, fp32: dict[str, list[Seen]]) -> None:
    assert all(seen.offloaded == ("offloaded" in name) for seen in fp32[name])


@pytest.mark.parametrize("stage", [1, 3])
def test_evaluation_between_steps_is_the_loss_and_leaves_no_trace(stage: int, fp32: dict[str, list[Seen]]) -> None:
    evaluated = fp32[f"stage {stage} evaluated"]
    assert evaluated[0].evaluations == evaluated[1].evaluations
    assert evaluated[0].evaluations[0] == pytest.approx(plain_loss(evaluated[0].start), rel=1e-6)
    assert evaluated[0].trace.losses == fp32[f"stage {stage} adamw"][0].trace.losses


def plain_loss(start: dict[str, Tensor]) -> float:
    return train_plainly(TOY, start, "sgd", 1, micro_batches=1).losses[0]


ONE_RANK_CELLS = [cell(f"deepspeed_stage_{stage}", accumulation=1) for stage in STAGES]


def test_one_rank_trains_like_plain_pytorch(start: dict[str, Tensor]) -> None:
    (rank,) = run_ranks(run_all, 1, ONE_RANK_CELLS)
    for one, seen in zip(ONE_RANK_CELLS, rank, strict=True):
        check_start([seen], start)
        assert_parity([seen.trace], reference(one, start, ranks=1), start, FP32_TOLERANCE)


BF16_CELLS = [cell(f"deepspeed_stage_{stage}", "sgd", precision="bf16") for stage in STAGES]


def test_bf16_keeps_fp32_masters_and_stays_within_its_band(start: dict[str, Tensor]) -> None:
    ranks = run_ranks(run_all, 2, BF16_CELLS)
    for stage, (one, *seen) in enumerate(zip(BF16_CELLS, *ranks, strict=True)):
        check_start(seen, start)
        tolerance = BF16_TOLERANCE if stage else 1e-4  # stage 0 is autocast, as the reference is
        assert_parity([rank.trace for rank in seen], reference(one, start, autocast=torch.bfloat16), start, tolerance)
        if stage:
            assert seen[0].observed == {"master": "float32", "gradient_accumulation": "float32"}


def test_bf16_true_keeps_nothing_in_fp32(start: dict[str, Tensor]) -> None:
    cells = [cell(f"deepspeed_stage_{stage}", "sgd", precision="bf16-true") for stage in STAGES]
    alone, plain = train("single", toy_config("sgd", precision="bf16-true", accumulation=4), TOY)
    assert same_bits(alone, {name: value.bfloat16().float() for name, value in start.items()})
    ranks = run_ranks(run_all, 2, cells)
    for stage, seen in enumerate(zip(*ranks, strict=True)):
        check_start(list(seen), alone)
        assert_parity([rank.trace for rank in seen], plain, alone, BF16_TOLERANCE)
        assert not stage or set(seen[0].observed.values()) == {"bfloat16"}


def run_fp16(cells: list[Cell]) -> list[Seen]:
    """As run_all, where DeepSpeed's refusal of fp16 on this CPU is lifted: torch computes it, if slowly."""
    allow_fp16()
    return run_all(cells)


def allow_fp16() -> None:
    deepspeed = compat.load_deepspeed(CPU)
    deepspeed.accelerator.get_accelerator().is_fp16_supported = lambda: True
    compat.cpu_computes_fp16 = lambda: True


def test_fp16_scales_the_loss_and_unscales_the_norm(start: dict[str, Tensor]) -> None:
    cells = [cell(f"deepspeed_stage_{stage}", "sgd", precision="fp16") for stage in STAGES]
    ranks = run_ranks(run_fp16, 2, cells)
    for one, *seen in zip(cells, *ranks, strict=True):
        check_start(seen, start)
        assert_parity([rank.trace for rank in seen], reference(one, start, autocast=torch.float16), start, 1e-2)
        assert seen[0].skipped == 0
