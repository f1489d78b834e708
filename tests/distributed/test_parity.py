"""Parity: passes for every backend, and fails for each way of training another model that was put in on purpose."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from scalebench import strategies, workloads
from scalebench.harness.job import Report
from scalebench.harness.parity import STEPS, check
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place
from scalebench.harness.runner import execute
from scalebench.records.record import ParityFacts
from scalebench.spec import PlannedRun, RunSpec
from scalebench.strategies.base import Batch, Strategy, Workload
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.ddp import DDP
from scalebench.strategies.torch_step import TorchStep
from tests.distributed.ranks import run_ranks
from tests.distributed.test_runner import Watcher, tiny
from tests.distributed.training import CPU, rank, supported

pytestmark = pytest.mark.distributed

SHAPE = {"num_layers": 2, "hidden_size": 32, "num_heads": 2, "context_length": 16, "dropout": 0.1}


def spec(strategy: str, world_size: int, **changes: Any) -> RunSpec:
    options = workloads.resolve_options("gpt", "tiny", SHAPE)
    rule = strategies.default_grad_sync(strategy)
    return tiny(strategy, world_size, workload_options=options, grad_sync=rule, **changes)


def checked(asked: RunSpec, strategy: Strategy | None = None) -> Report:
    place = Place(rank=rank(), local_rank=rank(), world_size=dist.get_world_size(), device=CPU)
    return check(
        asked, strategy or strategies.create(asked.strategy, asked.strategy_options), place, Phase(None, rank())
    )


def all_checked(asked: list[RunSpec]) -> list[Report]:
    return [checked(each) for each in asked]


def assert_passed(report: Report, asked: RunSpec) -> None:
    assert report.contradictions == [], asked.label
    facts = report.parity
    assert isinstance(facts, ParityFacts)
    assert facts.passed
    assert facts.initial_bit_equal
    assert facts.steps == STEPS
    assert all(0 < clipped < STEPS for clipped in facts.clipped_steps.values())
    for differences, tolerance in (
        (facts.loss, facts.tolerance_loss),
        (facts.norm, facts.tolerance_norm),
        (facts.parameters, facts.tolerance_parameters),
    ):
        assert differences.keys() == {"sgd", "adamw"}
        assert all(value is not None and value <= tolerance for value in differences.values())


BACKENDS = {
    "torch": ["ddp", "ddp_static_graph", "fsdp", "fsdp_shard_grad_op", "fsdp_hybrid", "fsdp_cpu_offload", "fsdp1"],
    "deepspeed": [f"deepspeed_stage_{stage}" for stage in range(4)],
}


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("package", BACKENDS)
def test_every_backend_trains_as_single_does(package: str, world_size: int) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    names = [name for name in BACKENDS[package] if world_size == 2 or name in FEWER]
    asked = supported([spec(name, world_size) for name in names])
    reports, *others = run_ranks(all_checked, world_size, asked)
    for each, report in zip(asked, reports, strict=True):
        assert_passed(report, each)
    assert all(report == Report() for rank_reports in others for report in rank_reports)


FEWER = {"ddp", "fsdp", "deepspeed_stage_3"}
"""What is checked on one and on four ranks too."""

SIXTEEN_BIT = [
    ("ddp", {"precision": "bf16"}),
    ("fsdp", {"precision": "bf16"}),
    ("fsdp", {"precision": "bf16-true"}),
    ("ddp", {"precision": "fp16"}),
    ("ddp", {"precision": "fp16-true"}),
    ("fsdp", {"precision": "bf16", "activation_checkpointing": True, "accumulation": 3}),
]


def test_sixteen_bit_training_stays_in_its_band_and_says_which() -> None:
    asked = supported([spec(name, 2, **changes) for name, changes in SIXTEEN_BIT])
    reports, _ = run_ranks(all_checked, 2, asked)
    for each, report in zip(asked, reports, strict=True):
        assert_passed(report, each)
        assert report.parity.tolerance_loss > 1e-6


class Faulty(DDP):
    """DDP with a fault."""

    def spoil(self, step: TorchStep) -> None:
        raise NotImplementedError

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TorchStep:
        step = super().prepare(workload, config, device)
        self.spoil(step)
        return step


class SumsInsteadOfMean(Faulty):
    """Gradients twice as large, as with the sum over two ranks in place of the mean."""

    def spoil(self, step: TorchStep) -> None:
        for parameter in step.module.parameters():
            parameter.register_hook(lambda gradient: 2 * gradient)


class SumsBehindTheNorm(Faulty):
    """The same, after a norm and a clipping that are right: under AdamW it hardly shows."""

    def spoil(self, step: TorchStep) -> None:
        def double(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            torch._foreach_mul_([p.grad for group in optimizer.param_groups for p in group["params"]], 2.0)

        step.optimizer.register_step_pre_hook(double)


class NeverSyncs(Faulty):
    """Gradients stay on their rank."""

    def spoil(self, step: TorchStep) -> None:
        step._sync = lambda crosses_ranks, last: step.module.no_sync()


class DroppingStep(TorchStep):
    def __call__(self, micro_batches: Sequence[Batch]) -> Tensor:
        self._accumulation = len(micro_batches) - 1
        return super().__call__(micro_batches[:-1])


class DropsAMicroBatch(Faulty):
    """The last micro-batch of each step is not computed; the divisor stays as it was."""

    def spoil(self, step: TorchStep) -> None:
        step.__class__ = DroppingStep


class StartsElsewhere(DDP):
    """Another seed for the initial parameters."""

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TorchStep:
        return super().prepare(workload, dataclasses.replace(config, seed=config.seed + 1), device)


class NeverClips(DDP):
    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TorchStep:
        return super().prepare(workload, dataclasses.replace(config, clip_norm=1e9), device)


NORMS = {"gradient norms under sgd", "gradient norms under adamw"}
PARAMETERS = {"parameters under sgd", "parameters under adamw"}
FAULTS: dict[type[Strategy], set[str]] = {
    SumsInsteadOfMean: NORMS,  # clipping hides it from all else but fp32's narrow tolerance
    SumsBehindTheNorm: {"parameters under sgd"},
    NeverSyncs: NORMS | PARAMETERS,
    DropsAMicroBatch: NORMS | PARAMETERS,
    StartsElsewhere: NORMS | {"initial parameters under sgd", "initial parameters under adamw"},
    NeverClips: {"parameters under sgd"},
}
"""Each fault and what must, at least, be found of it in any precision; in fp32 every one shows in PARAMETERS too."""


def all_faults(precision: str) -> list[Report]:
    return [checked(spec("ddp", 2, precision=precision), fault()) for fault in FAULTS]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fault_put_in_on_purpose_is_found(precision: str) -> None:
    reports, _ = run_ranks(all_faults, 2, precision)
    for report, (fault, expected) in zip(reports, FAULTS.items(), strict=True):
        assert report.parity is not None
        assert not report.parity.passed, fault.__name__
        for what in expected | (PARAMETERS if precision == "fp32" else set()):
            topic, _, optimizer = what.partition(" under ")
            assert any(
                topic in sentence and sentence.partition(" under ")[2].startswith(optimizer)
                for sentence in report.contradictions
            ), f"{fault.__name__}: nothing about {what} in {report.contradictions}"
        assert report.parity.initial_bit_equal == (fault is not StartsElsewhere)


def test_a_parity_check_through_the_runner_leaves_its_record(tmp_path: Path) -> None:
    run = PlannedRun(spec=spec("ddp", 2), kind="parity")
    ((record, path),) = execute([run], results=tmp_path, progress=Watcher())
    assert (record.status, record.reason, record.kind) == ("ok", None, "parity")
    assert record.parity is not None
    assert record.parity.passed
    assert record.ranks == []
    assert path.name.endswith("-parity0.json")
