"""The moving average under every strategy, over whole parameters, shards and masters: that of single."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch
from torch import Tensor

from scalebench.harness.job import Report
from scalebench.scheme import model_of, scheme_of
from scalebench.strategies.base import TrainStep, Workload
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.ddp import DDP
from scalebench.theory.memory import updated_elements
from scalebench.workloads import create
from tests.distributed.cells import cell, running
from tests.distributed.ranks import run_ranks
from tests.distributed.test_parity import all_checked, assert_passed, checked, spec
from tests.distributed.training import supported

pytestmark = pytest.mark.distributed

DECAY = 0.9
CELLS = {
    "torch": [("ddp", "fp32"), ("fsdp", "fp32"), ("fsdp1", "fp32"), ("fsdp", "bf16-true")],
    "deepspeed": [
        *(("deepspeed_stage_0", "fp32"), ("deepspeed_stage_1", "bf16")),
        *(("deepspeed_stage_2", "fp32"), ("deepspeed_stage_3", "bf16")),
    ],
}
"""16 bits where masters, or averages of 16-bit parameters, are something else than the parameters. Frameworks are
checked in a test of their own."""


@pytest.mark.parametrize("package", CELLS)
def test_every_strategy_keeps_the_average_that_single_keeps(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    asked = supported([spec(name, 2, precision=precision, ema_decay=DECAY) for name, precision in CELLS[package]])
    reports, _ = run_ranks(all_checked, 2, asked)
    for each, report in zip(asked, reports, strict=True):
        assert_passed(report, each)
        assert report.parity.average.keys() == {"sgd", "adamw"}
        assert all(value <= report.parity.tolerance_parameters for value in report.parity.average.values())


class ForgetsOften(DDP):
    """Another decay than asked."""

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        return super().prepare(workload, dataclasses.replace(config, ema_decay=DECAY / 2), device)


def wrong_average() -> Report:
    return checked(spec("ddp", 2, ema_decay=DECAY), ForgetsOften())


def test_a_wrong_average_is_found() -> None:
    report, _ = run_ranks(wrong_average, 2)
    assert report.parity is not None
    assert not report.parity.passed
    assert all("asked single's moving averages" in sentence for sentence in report.contradictions)
    assert len(report.contradictions) == 2


def average_bytes(names: list[str]) -> list[int]:
    """Bytes of the averages that a rank holds under each strategy, by the storages of its step."""
    held = []
    for name in names:
        with running(cell(name, 2, ema_decay=DECAY), steps=1) as (step, _):
            averages: list[Tensor] = step._average.shares  # type: ignore[attr-defined]
            held.append(sum(value.untyped_storage().nbytes() for value in averages))
    return held


def test_a_rank_holds_the_average_of_its_own_share_as_theory_says() -> None:
    stages = ["deepspeed_stage_2", "deepspeed_stage_3"] if importlib.util.find_spec("deepspeed") else []
    names = [each.strategy for each in supported([cell(name, 2) for name in ["ddp", "fsdp", *stages]])]
    held = run_ranks(average_bytes, 2, names)
    for name, both in zip(names, zip(*held, strict=True), strict=True):
        asked = cell(name, 2, ema_decay=DECAY)
        model = model_of(create(asked.workload, asked.size, asked.workload_options))
        scheme = scheme_of(asked, model)
        assert scheme is not None
        expected = updated_elements(model, scheme) * scheme.average
        assert expected > 0
        assert all(abs(each - expected) <= 0.01 * expected for each in both), (name, both, expected)
