"""Every registered workload trains and generates under sharding backends as plain PyTorch does, at its tiny size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scalebench import strategies, workloads
from scalebench.spec import RunSpec
from scalebench.strategies.config import OptimizerConfig
from tests.distributed.ranks import run_ranks
from tests.distributed.test_parity import all_checked, assert_passed
from tests.distributed.training import CPU, supported

pytestmark = pytest.mark.distributed

SHARDING = ["fsdp", "deepspeed_stage_3"]
CONVOLUTIONAL = ("vavae", "segmentation")
"""They take longer than all others together."""
TRAINED = [
    pytest.param(name, marks=[pytest.mark.slow] if name in CONVOLUTIONAL else [])
    for name in workloads.FAMILIES
    if name != "gpt"
]


def spec(workload: str, strategy: str, world_size: int = 2) -> RunSpec:
    """The workload's smallest size on its own data."""
    size = workloads.size_names(workload)[0]
    return RunSpec(
        workload=workload,
        size=size,
        workload_options=workloads.resolve_options(workload, size),
        data=workloads.default_data(workload),
        strategy=strategy,
        device="cpu",
        world_size=world_size,
        threads_per_rank=1,
        micro_batch=workloads.default_micro_batch(workload, size),
        grad_sync=strategies.default_grad_sync(strategy),
        optimizer=OptimizerConfig(learning_rate=1e-2),
    )


@pytest.mark.parametrize("workload", TRAINED)
def test_every_workload_trains_as_plain_pytorch_does(workload: str) -> None:
    """Under one strategy, for the time it takes; `python -m tests.benchmarks.workload_parity` has the others."""
    asked = supported([spec(workload, "fsdp")])
    (report,), _ = run_ranks(all_checked, 2, asked)
    assert_passed(report, asked[0])


def generated(asked: list[RunSpec]) -> list[tuple[Tensor, Tensor]]:
    """What each cell generates at the start, whose output is zero whatever goes in, and after steps away from it."""
    samples = []
    for each in asked:
        workload = workloads.create(each.workload, each.size, each.workload_options)
        strategy = strategies.create(each.strategy, each.strategy_options)
        batch = workload.samples(each.data, each.seed).__getitems__(range(each.micro_batch))
        step = strategy.prepare(workload, each.train_config(), CPU)
        first = step.generate(batch)
        for _ in range(3):
            step([batch])
        samples.append((first, step.generate(batch)))
        step.close()
    return samples


def test_samples_are_those_of_plain_pytorch() -> None:
    """All ranks train on the same batch, so that their mean gradient is that of one process."""
    names = ["dit", "jit"]
    alone = dict(zip(names, generated([spec(name, "single", 1) for name in names]), strict=True))
    asked = supported([spec(name, strategy) for strategy in SHARDING for name in names])
    for ranks in run_ranks(generated, 2, asked):
        for (first, samples), each in zip(ranks, asked, strict=True):
            torch.testing.assert_close(samples, alone[each.workload][1], rtol=1e-3, atol=1e-3)
            assert (samples - first).abs().max() > 0.1
