"""Faults really injected into a sweep: each is recorded as what it was, and the next run is sound.

All of them, under each strategy: `python -m tests.benchmarks.faults`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.distributed.disasters import DISASTERS, Disaster, befall
from tests.distributed.faults import FAULTS, STRATEGIES, Fault, suffer

pytestmark = pytest.mark.distributed

BUSY_SECONDS = 30.0
"""In which a busy machine too ends a run after a fault: by having noticed it, not by the time-out of 60 s."""
FAST = ("SIGKILL of rank 1, start", "SIGKILL of rank 0, measuring", "exception on one rank", "an allocation")


def named(*names: str) -> list[Fault]:
    return [replace(fault, within=BUSY_SECONDS) for fault in FAULTS if fault.name.startswith(names)]


def test_a_fault_ends_its_own_run_and_no_other(tmp_path: Path) -> None:
    for suffered in suffer("ddp", named(*FAST, "hang in a step"), tmp_path):
        assert not suffered.wrong


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_fault_harms_more_than_its_run(tmp_path: Path, strategy: str) -> None:
    for suffered in suffer(strategy, FAULTS, tmp_path):
        assert not suffered.wrong


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("disaster", DISASTERS, ids=lambda disaster: disaster.name)
def test_a_disturbed_sweep_comes_to_the_same_records(disaster: Disaster, strategy: str, tmp_path: Path) -> None:
    if disaster.needs_root and os.geteuid():
        pytest.skip("needs root")
    assert befall(disaster, strategy, tmp_path) == []


@pytest.mark.parametrize("name", ["SIGKILL of the launcher, a rank stopped"])
def test_a_disturbed_sweep_of_ddp_comes_to_the_same_records(name: str, tmp_path: Path) -> None:
    disaster = next(one for one in DISASTERS if one.name == name)
    assert befall(disaster, "ddp", tmp_path) == []
