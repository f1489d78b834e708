"""The timed window adds no wait for the device to the steps in it, counted by torch's profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from scalebench import data, strategies, workloads
from scalebench.harness.loop import run_steps
from scalebench.meters.clock import clock_for
from scalebench.strategies.base import TrainStep
from scalebench.strategies.config import Precision, TrainConfig
from tests.gpu.needed import cuda

WAITS = ("cudaDeviceSynchronize", "cudaStreamSynchronize")
STEPS = 10
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")


def waits(run: Callable[[], object]) -> int:
    """How often the host waits for the device in `run`."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
    calls = Counter(event.name for event in profiler.events() or [])
    return sum(calls[name] for name in WAITS)


def waits_per_step(run: Callable[[int], object]) -> float:
    """Of each further step: what waits once at the beginning and the end does not count."""
    run(2)
    return (waits(partial(run, 2 * STEPS)) - waits(partial(run, STEPS))) / STEPS


def prepared(precision: Precision) -> tuple[TrainStep, Any]:
    device = torch.device("cuda", 0)
    workload = workloads.create("gpt", "tiny")
    config = TrainConfig(precision=precision, micro_batch=4)
    batches = data.loader(workload.samples("synthetic", 0), micro_batch=4, device=device)
    return strategies.create("single").prepare(workload, config, device), batches


def bare(step: TrainStep, batches: Any, count: int) -> None:
    for _ in range(count):
        step(next(batches))


def metered(step: TrainStep, batches: Any, count: int) -> None:
    run_steps(step, batches, count, clock_for(torch.device("cuda", 0)))


@cuda
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_window_adds_no_wait_to_its_steps(precision: Precision) -> None:
    step, batches = prepared(precision)
    assert waits_per_step(partial(metered, step, batches)) == waits_per_step(partial(bare, step, batches)) == 0


@cuda
def test_a_wait_in_every_step_would_be_counted() -> None:
    step, batches = prepared("fp32")

    def waiting(count: int) -> None:
        for _ in range(count):
            step(next(batches)).item()

    assert waits_per_step(waiting) >= 1
