"""The image workloads under the strategies, on real ranks: parity, evaluation, checkpoints, norms over ranks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scalebench import strategies, workloads
from scalebench.spec import RunSpec
from scalebench.strategies.config import TrainConfig
from scalebench.workloads.checkpoint import started
from scalebench.workloads.norms import SyncBatchNorm
from tests.distributed.ranks import run_ranks
from tests.distributed.test_parity import all_checked, assert_passed
from tests.distributed.test_runner import tiny
from tests.distributed.training import CPU, rank, same_bits, supported
from tests.unit.image_batches import SMALL, batch_of, built, made

pytestmark = pytest.mark.distributed
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is missing")

ALL = ["ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3"]


def spec(name: str, strategy: str, **options: Any) -> RunSpec:
    workload = made(name, **options)
    return tiny(
        strategy,
        2,
        workload=workload.name,
        size=workload.size,
        workload_options=workloads.resolve_options(workload.name, workload.size, {**SMALL[name][1], **options}),
        data="synthetic",
        micro_batch=2,
        grad_sync=strategies.default_grad_sync(strategy),
    )


def check_parity(kinds: list[str], names: list[str]) -> None:
    asked = supported([spec(kind, name) for kind in kinds for name in names])
    reports, _ = run_ranks(all_checked, 2, asked)
    for each, report in zip(asked, reports, strict=True):
        assert_passed(report, each)


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("kind", SMALL)
def test_every_strategy_trains_them_as_single_does(kind: str) -> None:
    check_parity([kind], ALL)


@pytest.mark.slow
def test_norms_by_micro_batch_train_nearly_as_single_does() -> None:
    asked = spec("segmentation", "ddp", norm="batch").model_copy(update={"micro_batch": 4})
    facts = run_ranks(all_checked, 2, [asked])[0][0].parity
    assert facts is not None
    for differences in (facts.loss, facts.norm, facts.parameters):  # a pooled image makes its statistics of four values
        assert all(value is not None and value < 1e-3 for value in differences.values())


def synchronised(values: list[Tensor], weights: list[Tensor]) -> dict[str, Tensor]:
    """This rank's output, gradients and running statistics of a norm over both ranks."""
    module = SyncBatchNorm(values[0].size(1))
    own = values[rank()].clone().requires_grad_()
    out = module(own)
    (out * weights[rank()]).sum().backward()
    assert own.grad is not None
    kept = {"mean": module.running_mean, "variance": module.running_var}
    return {"out": out.detach(), "input": own.grad, "gain": module.weight.grad, "bias": module.bias.grad, **kept}


def test_a_norm_over_ranks_is_the_norm_of_their_batches_together() -> None:
    torch.manual_seed(0)
    values = [torch.randn(3, 4, 5, 5) * 2 + index for index in range(2)]
    weights = [torch.randn(3, 4, 5, 5) for _ in range(2)]
    ranks = run_ranks(synchronised, 2, values, weights)
    plain, whole = nn.BatchNorm2d(4), torch.cat(values).requires_grad_()
    out = plain(whole)
    (out * torch.cat(weights)).sum().backward()
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([each["out"] for each in ranks]), out.detach(), **close)
    torch.testing.assert_close(torch.cat([each["input"] for each in ranks]), whole.grad, **close)
    for name, parameter in (("gain", plain.weight), ("bias", plain.bias)):
        torch.testing.assert_close(sum(each[name] for each in ranks), parameter.grad, **close)
    for each in ranks:
        torch.testing.assert_close(each["mean"], plain.running_mean)
        torch.testing.assert_close(each["variance"], plain.running_var)


def config(name: str, **changes: Any) -> TrainConfig:
    return TrainConfig(micro_batch=2, grad_sync=strategies.default_grad_sync(name), **changes)


def evaluated(names: list[str], kinds: list[str], precision: str) -> dict[tuple[str, str], Any]:
    """Per workload and strategy, after a step: parameters, this rank's sums, and what it generates."""
    seen = {}
    for kind in kinds:
        for name in names:
            workload = made(kind)
            step = strategies.create(name).prepare(workload, config(name, precision=precision), CPU)
            step([batch_of(workload, 2, seed=rank())])
            parameters = dict(step.full_parameters())
            batch = batch_of(workload, 2, seed=10 + rank())
            seen[kind, name] = parameters, step.evaluate(batch), step.generate(batch)
            step.close()
    return seen


@needs_deepspeed
def test_evaluations_add_up_to_plain_pytorchs() -> None:
    names = ["ddp", "fsdp", "fsdp1", "deepspeed_stage_2", "deepspeed_stage_3"]
    ranks = run_ranks(evaluated, 2, names, list(SMALL), "fp32")
    for (kind, name), (parameters, _, _) in ranks[0].items():
        workload = made(kind)
        model = workload.build()
        model.load_state_dict(parameters)
        model.eval()
        both = [batch_of(workload, 2, seed=10 + index) for index in range(2)]
        whole = {key: torch.cat([batch[key] for batch in both]) for key in both[0]}
        with torch.no_grad():
            expected, generated = workload.metrics(model(whole, "metrics")), model(whole, "generate")
        sums = {key: sum(each[kind, name][1][key] for each in ranks) for key in ranks[0][kind, name][1]}
        assert workload.metrics(sums) == pytest.approx(expected, rel=1e-4), (kind, name)
        found = torch.cat([each[kind, name][2] for each in ranks])
        assert (found != generated).float().mean() < 0.01, (kind, name)  # a rounding may tip one pixel


@pytest.mark.slow
@needs_deepspeed
def test_sixteen_bit_evaluations_run_under_every_strategy() -> None:
    names = ["fsdp", "deepspeed_stage_3"]
    for (kind, _), (_, sums, _) in run_ranks(evaluated, 2, names, list(SMALL), "bf16")[0].items():
        assert all(value.dtype == torch.float32 for value in sums.values())
        assert all(torch.isfinite(torch.tensor(list(made(kind).metrics(sums).values()))))


def starts(names: list[str], path: str) -> list[dict[str, Tensor]]:
    """The parameters that each strategy starts with from a checkpoint."""
    found = []
    for name in names:
        step = strategies.create(name).prepare(started(made("conv"), path), config(name), CPU)
        found.append(dict(step.full_parameters()))
        step.close()
    return found


@needs_deepspeed
def test_every_strategy_starts_from_the_checkpoint(tmp_path: Path) -> None:
    module = built(made("conv"), TrainConfig(seed=99))
    torch.save({"state_dict": {f"model.{name}": value for name, value in module.state_dict().items()}}, tmp_path / "c")
    wanted = {name: value.detach() for name, value in module.named_parameters()}
    for found in run_ranks(
        starts,
        2,
        ["ddp", "fsdp", "fsdp1", "fsdp_cpu_offload", "deepspeed_stage_2", "deepspeed_stage_3"],
        f"{tmp_path}/c",
    ):
        assert all(same_bits(each, wanted) for each in found)
