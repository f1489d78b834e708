"""The backends of frameworks on real ranks: they train as single does, are what they say, and leave nothing behind."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import os
from typing import Any

import pytest
import torch

from scalebench import strategies
from scalebench.harness.job import Report
from scalebench.meters.contract import contradictions
from scalebench.records.record import Contract
from scalebench.spec import RunSpec
from scalebench.strategies.base import Strategy
from scalebench.strategies.framework import Framework
from scalebench.strategies.lightning_fsdp import LightningFSDP
from tests.distributed.ranks import RankError, run_ranks
from tests.distributed.test_contract import MATCHED_BF16, TOY, seen
from tests.distributed.test_contract import spec as toy_spec
from tests.distributed.test_parity import all_checked, assert_passed, checked, spec
from tests.distributed.training import CPU, prepare, rank, toy_config

pytestmark = pytest.mark.distributed

ON_CPU = {"lightning": ["lightning_ddp", "lightning_model_parallel"], "accelerate": ["accelerate_ddp"]}
CASTING = {"lightning_ddp": "autocast", "lightning_model_parallel": "sharded-cast", "accelerate_ddp": "autocast"}


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def process_state() -> dict[str, Any]:
    """What a framework could leave changed in its process."""
    state: dict[str, Any] = {
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "compile": torch.compile,
        "dtype": torch.get_default_dtype(),
        "linear": torch.nn.functional.linear,
    }
    return state


def checked_and_seen(asked: list[RunSpec]) -> tuple[list[Report], list[Contract], list[str]]:
    """Parity and contract of each, and what of the process was not as before once all were closed."""
    before = process_state()
    reports = all_checked(asked)
    contracts = [seen(toy_spec(each.strategy, precision=each.precision)) for each in asked]
    after = process_state()
    changed = [name for name in before if before[name] != after[name]]
    return reports, contracts, changed + singletons()


def singletons() -> list[str]:
    """What Accelerate shares between all its objects of a process, if it does."""
    if importlib.util.find_spec("accelerate") is None:
        return []
    from accelerate.state import AcceleratorState, GradientState, PartialState

    return [kind.__name__ for kind in (AcceleratorState, GradientState, PartialState) if kind._shared_state]


@pytest.mark.parametrize("package", ON_CPU)
def test_frameworks_train_as_single_does_and_leave_nothing_behind(package: str) -> None:
    need(package)
    asked = [spec(name, 2, precision=precision) for name in ON_CPU[package] for precision in ("fp32", "bf16")]
    for number, (reports, contracts, left) in enumerate(run_ranks(checked_and_seen, 2, asked)):
        assert left == []
        for each, report, contract in zip(asked, reports, contracts, strict=True):
            if number == 0:
                assert_passed(report, each)
            assert contradictions(toy_spec(each.strategy, precision=each.precision), contract) == []
            if each.precision == "bf16":
                assert contract.model_dump() == contract.model_dump() | MATCHED_BF16
                assert contract.casting == CASTING[each.strategy]
                assert contract.sync_micro_batches == (2 if each.grad_sync == "every_micro_batch" else 1)


def seen_in_fp16(name: str) -> list[str]:
    """What the contract finds when the refusal of fp16 on a CPU is passed by."""
    asked = toy_spec(name, precision="fp16")
    return contradictions(asked, seen(asked))


@pytest.mark.parametrize(("name", "instead"), [("lightning_ddp", "bfloat16"), ("accelerate_ddp", "float32")])
def test_a_silent_substitute_for_fp16_is_found_out(name: str, instead: str) -> None:
    need(name.partition("_")[0])
    for found in run_ranks(seen_in_fp16, 2, name):
        assert f"asked matrix products in float16, observed {instead}" in found


def prepare_as_on_a_gpu(name: str) -> None:
    strategies.create(name).prepare(TOY, toy_config("sgd"), CPU)


def test_a_wrapper_that_accelerate_leaves_out_in_silence_is_found_out() -> None:
    need("accelerate")
    with pytest.raises(RankError, match="Accelerate was asked for FSDPModule and made DistributedDataParallel"):
        run_ranks(prepare_as_on_a_gpu, 2, "accelerate_fsdp")
