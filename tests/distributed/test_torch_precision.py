"""Precision under the torch strategies: bands around fp32, where the loss is computed, loss scaling, profiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from scalebench.strategies.config import OptimizerName, Precision, Profile, TrainConfig
from tests.distributed.ranks import run_ranks
from tests.distributed.toy import Toy, Trace, train_plainly
from tests.distributed.training import CLIP_NORM, STEPS, prepare, rank, same_bits, toy_config, train

TOY = Toy()
NAMES = ["ddp", "fsdp", "fsdp_hybrid", "fsdp_cpu_offload", "fsdp1"]
SPIKED = Toy(spike_step=2)
BAND = 5e-3
"""Of the loss. bf16 rounds to 4e-3 of a value and fp16 to 5e-4, and the toy's AdamW turns a change of 1e-4 in its start
values into one of 1e-3 in its losses: plain autocast strays as far."""


@pytest.fixture(scope="module")
def start() -> dict[str, Tensor]:
    return dict(prepare("single", toy_config("sgd"), TOY).full_parameters())


def train_all(names: list[str], config: TrainConfig) -> dict[str, Trace]:
    return {name: train(name, config, TOY)[1] for name in names}


@pytest.mark.distributed
@pytest.mark.parametrize("precision", ["bf16", "bf16-true", "fp16", "fp16-true"])
def test_sixteen_bit_training_stays_near_fp32(precision: Precision, start: dict[str, Tensor]) -> None:
    ranks = run_ranks(train_all, 2, NAMES, toy_config("adamw", precision=precision))
    reference = train_plainly(TOY, start, "adamw", STEPS, micro_batches=4, clip_norm=CLIP_NORM)
    for name in NAMES:
        losses = [(a + b) / 2 for a, b in zip(ranks[0][name].losses, ranks[1][name].losses, strict=True)]
        assert losses == pytest.approx(reference.losses, rel=BAND), name
        assert losses != pytest.approx(reference.losses, rel=1e-6), f"{name} computed in fp32"
        for trace in (each[name] for each in ranks):
            assert trace.norms == pytest.approx(reference.norms, rel=0.1)
            in_sixteen_bits = torch.tensor(trace.losses).to(torch.bfloat16).double()
            assert not torch.equal(in_sixteen_bits, torch.tensor(trace.losses, dtype=torch.float64)), "loss is rounded"


@pytest.mark.distributed
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_one_rank_in_sixteen_bits_stays_near_fp32(precision: Precision, start: dict[str, Tensor]) -> None:
    reference = train_plainly(TOY, start, "sgd", STEPS, micro_batches=2, clip_norm=CLIP_NORM)
    traces = run_ranks(train_all, 1, ["ddp", "fsdp", "fsdp1"], toy_config("sgd", precision=precision))[0]
    for name, trace in traces.items():
        assert trace.losses == pytest.approx(reference.losses, rel=BAND), name


def test_single_in_bf16_is_plain_autocast(start: dict[str, Tensor]) -> None:
    _, trace = train("single", toy_config("sgd", precision="bf16", accumulation=4), TOY)
    plain = train_plainly(TOY, start, "sgd", 2, micro_batches=4, clip_norm=CLIP_NORM, autocast=torch.bfloat16)
    assert trace.losses[:2] == pytest.approx(plain.losses, rel=1e-4)


def stored_dtypes(config: TrainConfig) -> dict[str, set[torch.dtype]]:
    """Dtypes of parameters, gradients and optimizer state after a step."""
    stored = {}
    for name in NAMES:
        step = prepare(name, config, TOY)
        step(TOY.share(0, rank(), 2))
        state = [value for each in step.optimizer.state.values() for value in each.values() if value.ndim]
        parameters = [parameter for group in step.optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        stored[name] = {tensor.dtype for tensor in [*state, *parameters, *gradients]}
    return stored


@pytest.mark.distributed
@pytest.mark.parametrize("precision", ["bf16", "bf16-true"])
def test_mixed_keeps_fp32_and_true_keeps_nothing_else_than_16_bits(precision: Precision) -> None:
    expected = torch.bfloat16 if precision == "bf16-true" else torch.float32
    for stored in run_ranks(stored_dtypes, 2, toy_config("adamw", precision=precision)):
        assert all(dtypes == {expected} for dtypes in stored.values())


def train_through_an_overflow(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Only rank 1's batch spikes, in one element of one gradient: rank 0 must drop the step too."""
    seen = {}
    for name in NAMES:
        step = prepare(name, config, SPIKED)
        losses, skipped, stood_still = [], [], []
        for index in range(STEPS):
            before = dict(step.full_parameters())
            batches = (SPIKED if rank() == 1 else TOY).share(index, rank(), 2)
            losses.append(step(batches).item())
            skipped.append(step.skipped_steps())
            stood_still.append(same_bits(before, dict(step.full_parameters())))
        seen[name] = {"losses": losses, "skipped": skipped, "stood_still": stood_still}
    return seen


@pytest.mark.distributed
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["fp16", "fp16-true"])
def test_an_overflow_on_one_rank_drops_the_step_on_all(
    precision: Precision, optimizer: OptimizerName, start: dict[str, Tensor]
) -> None:
    ranks = run_ranks(train_through_an_overflow, 2, toy_config(optimizer, precision=precision))
    reference = train_plainly(SPIKED, start, optimizer, STEPS, micro_batches=4, clip_norm=CLIP_NORM)
    for name in NAMES:
        for seen in (each[name] for each in ranks):
            assert seen["skipped"] == [0, 0, 1, 1, 1]
            assert seen["stood_still"] == [False, False, True, False, False]
        losses = [(a + b) / 2 for a, b in zip(ranks[0][name]["losses"], ranks[1][name]["losses"], strict=True)]
        del losses[2]
        assert losses == pytest.approx(reference.losses, rel=BAND), name


def test_single_drops_an_overflowing_step() -> None:
    step = prepare("single", toy_config("adamw", precision="fp16"), SPIKED)
    for index in range(3):
        before = dict(step.full_parameters())
        step(SPIKED.share(index, 0, 2))
    assert step.skipped_steps() == 1
    assert same_bits(before, dict(step.full_parameters()))


def reduce_dtypes(profile: Profile) -> tuple[set[torch.dtype], torch.dtype | None]:
    """What FSDP2's reduce-scatter was really given, seen where it enters the process group."""
    seen: set[torch.dtype] = set()
    step = prepare("fsdp", toy_config("sgd", precision="bf16", profile=profile), TOY)
    assert isinstance(step.module, FSDPModule)
    with _SeeReduceScatter(seen):
        step(TOY.share(0, rank(), 2))
    return seen, next(iter(step.module.parameters())).dtype


class _SeeReduceScatter(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self, seen: set[torch.dtype]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._opname == "_reduce_scatter_base_":
            self.seen.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.distributed
@pytest.mark.parametrize(("profile", "expected"), [("matched", torch.float32), ("backend-default", torch.bfloat16)])
def test_matched_reduces_in_fp32_and_the_default_does_as_fsdp2_ships(profile: Profile, expected: torch.dtype) -> None:
    assert run_ranks(reduce_dtypes, 2, profile)[0] == ({expected}, torch.float32)
