"""What a rank keeps while it runs, and what it leaves behind when it leaves its process group."""

from __future__ import annotations

import gc
import os
import resource
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from scalebench import strategies, workloads
from scalebench.harness import placement
from scalebench.harness.placement import keep_freed_memory, process_group, return_freed_memory, take_place
from tests.benchmarks.pairs import Cell
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed


def module_outlives_its_group(strategy: str, folder: Path) -> bool:
    """Whether the wrapped module is still there once its group is gone, no collection having come by chance."""
    dist.destroy_process_group()  # the one that this rank was started with
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    spec = Cell(strategy=strategy, ranks=1).spec(1, 1)
    place = take_place(spec)
    gc.disable()
    with process_group(spec, place, folder, needed=True):
        workload = workloads.create(spec.workload, spec.size)
        step = strategies.create(strategy).prepare(workload, spec.train_config(), place.device)
        module = weakref.ref(step.module)
        step.close()
        del step
    return module() is not None


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp1", "deepspeed_stage_2"])
def test_nothing_that_refers_to_the_group_outlives_it(strategy: str, tmp_path: Path) -> None:
    """DDP's reducer, collected after the group, was seen to hang its rank for good."""
    assert run_ranks(module_outlives_its_group, 1, strategy, tmp_path) == [False]


def page_faults(keeps: bool) -> int:
    """Of ten rounds in which 120 MB are allocated, written and freed again. What glibc would do unasked is chance: a
    small block that happens to lie at the heap's end keeps everything below it."""
    (keep_freed_memory if keeps else return_freed_memory)()
    for number in range(14):
        if number == 4:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [torch.ones(5_000_000) for _ in range(6)].clear()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_step_finds_its_memory_mapped() -> None:
    [kept], [returned] = run_ranks(page_faults, 1, True), run_ranks(page_faults, 1, False)
    assert kept < returned / 20


@pytest.mark.parametrize(("ranks", "threads"), [(1, 8), (3, 2), (16, 1)])
def test_ranks_beside_gpus_share_the_cores(monkeypatch: pytest.MonkeyPatch, ranks: int, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert placement.share_of_cores(ranks) == threads
