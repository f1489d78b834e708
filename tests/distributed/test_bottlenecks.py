"""Bottlenecks that are really there, put in on purpose: each is the first that an explanation of the run names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scalebench.analysis.bottleneck import LEAST_SHARE, explain
from scalebench.analysis.causes import Limit
from scalebench.analysis.steps import foreign_cpu_cores
from scalebench.harness import entry
from scalebench.harness.job import Job, Report
from scalebench.records.record import Record
from tests.distributed import planted
from tests.distributed.hosts import limit_rate, namespaces, run_on_hosts
from tests.distributed.test_runner import Watcher, ranks_of_this_process, run_one, tiny

pytestmark = pytest.mark.distributed

STEPS = {"warmup_steps": 3, "steps": 30}


QUIET = 0.3
"""Cores of other programs up to which what is named first is what was put there; with more it may be they."""


def first_named(record: Record, expected: str, put_there: float = 0.0) -> Limit:
    """What is named first: `expected`, unless other programs run beside the test than those that it put there."""
    assert record.status == "ok", record.reason
    found, others = explain(record), foreign_cpu_cores(record)
    assert found is not None
    named = next(limit for limit in found.limits if limit.cause != "CPU taken by others")
    if named.cause != expected and others is not None and others > QUIET + put_there:
        pytest.skip(f"other programs keep {others:.1f} cores busy")
    assert (named.cause, found.share(named) >= LEAST_SHARE) == (expected, True), found
    return named


def planted_run(
    monkeypatch: pytest.MonkeyPatch, results: Path, main: Callable[[Job], Report], **changes: object
) -> Record:
    """A run whose ranks begin with `main`."""
    monkeypatch.setattr(entry, "main", main)
    return run_one(tiny(**STEPS, **changes), results)  # type: ignore[arg-type]


def test_a_slow_loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = first_named(planted_run(monkeypatch, tmp_path, planted.slow_reads, micro_batch=4), "data")
    assert re.fullmatch(r"--num-workers [124]", named.remedy), "as many as were seen to be enough"


def test_a_tiny_batch(tmp_path: Path) -> None:
    named = first_named(run_one(tiny("fsdp", 1, **STEPS, micro_batch=1), tmp_path), "small batch")
    assert named.remedy.startswith("--micro-batch 2")


def test_a_rank_with_more_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = first_named(planted_run(monkeypatch, tmp_path, planted.uneven_work), "slow rank")
    assert named.doing == "waits for rank 1"


def test_a_rank_whose_core_is_shared(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two ranks on one core are both slow")
    with planted.busy_core(cores[1]):
        named = first_named(run_one(tiny(**STEPS), tmp_path), "slow rank", put_there=1.0)
    assert named.doing == "waits for rank 1"
    assert f"core {cores[1]}" in named.remedy


def test_cores_under_a_quota(tmp_path: Path) -> None:
    try:
        with planted.quota(0.5) as put:
            watcher = Watcher("preparing", lambda: put(rank.pid for rank in ranks_of_this_process()))
            record = run_one(tiny(**STEPS | {"warmup_steps": 100}), tmp_path, watcher)  # long enough to be noticed
    except PermissionError as error:
        pytest.skip(str(error))
    first_named(record, "CPU quota")


def test_a_slow_link(tmp_path: Path) -> None:
    try:
        with namespaces(2) as hosts:
            limit_rate(hosts, "300mbit")
            record = run_on_hosts(hosts, tiny(**STEPS | {"steps": 12}), tmp_path)
    except PermissionError as error:
        pytest.skip(str(error))
    assert "all_reduce" in first_named(record, "communication").evidence
