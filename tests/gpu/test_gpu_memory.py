"""What CUDA's allocator says of a step against the categories that its memory is split into; and where it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scalebench import data, strategies, workloads
from scalebench.harness.runner import Session
from scalebench.machine import detect
from scalebench.meters.tensor_peak import measure_memory
from scalebench.spec import PlannedRun, RunSpec
from scalebench.strategies.config import Precision, TrainConfig
from tests.gpu.needed import cuda

SHARE = 0.02
GIB = 2**30


@cuda
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_categories_sum_to_what_the_allocator_held_in_the_very_step(
    precision: Precision, checkpointing: bool
) -> None:
    device = torch.device("cuda", 0)
    workload = workloads.create("gpt", "124m")
    config = TrainConfig(precision=precision, micro_batch=8, activation_checkpointing=checkpointing)
    step = strategies.create("single").prepare(workload, config, device)
    batches = data.loader(workload.samples("synthetic", 0), micro_batch=8, device=device)
    for _ in range(2):
        step(next(batches))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats(device)
    found = measure_memory(step, next(batches), device)
    allocated = torch.cuda.max_memory_allocated(device)
    assert sum(found["split"].model_dump().values()) == found["tensor_peak"]
    assert found["tensor_peak"] == pytest.approx(allocated, rel=SHARE)


def spec(**fields: Any) -> RunSpec:
    given = {"workload": "gpt", "size": "124m", "data": "synthetic", "strategy": "single", "device": "cuda"}
    return RunSpec(**given, world_size=1, warmup_steps=2, steps=3, **fields)


@cuda
def test_a_lack_of_memory_is_recorded_and_the_next_run_is_clean(tmp_path: Path) -> None:
    too_large, fits = spec(micro_batch=64, memory_limit_bytes=4 * GIB), spec(micro_batch=1)
    runs = [PlannedRun(spec=fits), PlannedRun(spec=too_large), PlannedRun(spec=fits, repeat=1)]
    session = Session(tmp_path, runs, detect("cuda"))
    first, refused, last = (session.perform(index, run, lambda phase: None)[0] for index, run in enumerate(runs))
    assert [first.status, refused.status, last.status] == ["ok", "oom", "ok"]
    assert refused.error is not None
    assert refused.error.shortage is not None
    assert refused.error.shortage.asked is not None
    assert last.ranks[0].losses == pytest.approx(first.ranks[0].losses, rel=1e-3)
    assert last.ranks[0].memory.allocated_peak == first.ranks[0].memory.allocated_peak
