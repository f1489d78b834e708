"""The backends of frameworks on real ranks: they train as single does, are what they say, and leave nothing behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import FullyShardedDataParallel

from scalebench import strategies
from scalebench.harness.job import Report
from scalebench.meters.contract import contradictions
from scalebench.records.record import Contract
from scalebench.strategies import accelerate_deepspeed, accelerate_fsdp, accelerator
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.lightning_deepspeed import LightningDeepSpeed
from scalebench.strategies.lightning_fsdp import LightningFSDP
from tests.distributed.ranks import run_ranks
from tests.distributed.test_contract import MATCHED_BF16, TOY, seen
from tests.distributed.test_contract import spec as toy_spec
from tests.distributed.test_parity import assert_passed, checked, spec
from tests.distributed.test_saved_state import SAVED_AFTER, Going, train_on
from tests.distributed.training import CPU, same_bits, toy_config

pytestmark = pytest.mark.distributed

ON_CPU = {"lightning": ["lightning_ddp", "lightning_model_parallel"], "accelerate": ["accelerate_ddp"]}
CASTING = {"lightning_ddp": "autocast", "lightning_model_parallel": "sharded-cast", "accelerate_ddp": "autocast"}
ON_GPUS = {
    "lightning": [("lightning_fsdp", "fp32"), ("lightning_deepspeed_stage_2", "bf16")],
    "accelerate": [("accelerate_fsdp", "bf16"), ("accelerate_deepspeed_stage_2", "bf16")],
}
"""What runs on GPUs only, and is tried here with its guards passed by."""
DECAY = 0.9
INSTEAD_OF_FP16 = {"lightning_ddp": "bfloat16", "accelerate_ddp": "float32"}


class OnCPU(LightningFSDP):
    """As on a GPU, but for the guard by which Fabric refuses a CPU and the device that it hands to FSDP1."""

    def strategy_class(self) -> Any:
        class FSDPStrategyOnCPU(super().strategy_class()):  # type: ignore[misc]
            def setup_module(self, module: torch.nn.Module) -> torch.nn.Module:
                return FullyShardedDataParallel(
                    module,
                    device_id=CPU,
                    mixed_precision=self.mixed_precision_config,
                    sharding_strategy=self.sharding_strategy,
                    **self._fsdp_kwargs,
                )

        return FSDPStrategyOnCPU


class DeepSpeedOnCPU(LightningDeepSpeed):
    """The same for DeepSpeed."""

    def strategy_class(self) -> Any:
        class DeepSpeedStrategyOnCPU(super().strategy_class()):  # type: ignore[misc]
            def setup_environment(self) -> None:
                self._set_world_ranks()
                self._init_deepspeed_distributed()
                self._format_config()
                self._config_initialized = True

            def _initialize_engine(self, model: Any, optimizer: Any = None, scheduler: Any = None) -> Any:
                import deepspeed

                engine, inner, _, _ = deepspeed.initialize(
                    model=model, optimizer=optimizer, config=self.config, dist_init_required=False
                )
                return engine, inner, None

        return DeepSpeedStrategyOnCPU


@contextlib.contextmanager
def accelerate_sees_gpus() -> Iterator[None]:
    """Accelerate takes its paths for GPUs, and computes on the CPU."""
    made = accelerator.accelerator

    def on_cpu(config: TrainConfig, device: torch.device, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
            patch.setattr(torch.cuda, "is_available", lambda: True)
            return made(config, torch.device("cuda"), **options)

    with pytest.MonkeyPatch.context() as patch:
        for module in (accelerate_fsdp, accelerate_deepspeed):
            patch.setattr(module, "accelerator", on_cpu)
        yield


def process_state() -> dict[str, Any]:
    """What a framework could leave changed in its process."""
    ours = {"LOCAL_RANK", "DS_ACCELERATOR", "PYTORCH_NVML_BASED_CUDA_CHECK"}  # set by us for DeepSpeed
    return {
        "environment": {name: value for name, value in os.environ.items() if name not in ours},
        "threads": torch.get_num_threads(),
        "compile": torch.compile,
        "dtype": torch.get_default_dtype(),
        "linear": torch.nn.functional.linear,
    }


def singletons() -> list[str]:
    """What Accelerate shares between all its objects of a process, if it does."""
    if "accelerate" not in sys.modules:
        return []
    from accelerate.state import AcceleratorState, GradientState, PartialState

    return [kind.__name__ for kind in (AcceleratorState, GradientState, PartialState) if kind._shared_state]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one rank saw of a framework.

    Attributes:
        reports, contracts: parity and contract by strategy and precision.
        left: what its strategies left changed in the process.
        fp16: what the contract finds where the refusal of fp16 on a CPU is passed by.
        unwrapped: what is said when Accelerate's FSDP is prepared on a CPU, past its refusal.
        straight, resumed: by strategy, a training at one go, and one that took up its state in the middle of it.
    """

    reports: dict[tuple[str, str], Report]
    contracts: dict[tuple[str, str], Contract]
    left: list[str]
    fp16: dict[str, list[str]]
    straight: dict[str, Going]
    resumed: dict[str, Going]
    unwrapped: str | None


def look_at(package: str, folder: Path) -> Found:
    """All in one launch: importing Lightning takes longer than all else."""
    before = process_state()
    cells = [(name, precision) for name in ON_CPU[package] for precision in ("fp32", "bf16")]
    reports = {cell: checked(spec(cell[0], 2, precision=cell[1], ema_decay=DECAY)) for cell in cells}
    contracts = {cell: seen(toy_spec(cell[0], precision=cell[1])) for cell in cells}
    made = {"lightning_fsdp": OnCPU, "lightning_deepspeed_stage_2": DeepSpeedOnCPU}
    with accelerate_sees_gpus():
        for name, precision in ON_GPUS[package]:
            if "deepspeed" not in name or importlib.util.find_spec("deepspeed"):
                own = made[name]() if name in made else None
                reports[name, precision] = checked(spec(name, 2, precision=precision, ema_decay=DECAY), own)
    straight = {name: train_on(name, folder / name, 0) for name in ON_CPU[package]}
    resumed = {name: train_on(name, folder / name, SAVED_AFTER) for name in ON_CPU[package]}
    after = process_state()
    left = [what for what in before if before[what] != after[what]] + singletons()
    return Found(
        reports=reports,
        contracts=contracts,
        left=left,
        fp16=fp16_instead(package),
        straight=straight,
        resumed=resumed,
        unwrapped=fsdp_on_a_cpu() if package == "accelerate" else None,
    )


def fsdp_on_a_cpu() -> str:
    with pytest.raises(RuntimeError) as raised:
        strategies.create("accelerate_fsdp").prepare(TOY, toy_config("sgd"), CPU)
    return str(raised.value)


def fp16_instead(package: str) -> dict[str, list[str]]:
    asked = [toy_spec(name, precision="fp16") for name in ON_CPU[package] if name in INSTEAD_OF_FP16]
    return {each.strategy: contradictions(each, seen(each)) for each in asked}


@pytest.fixture(scope="module", params=sorted(ON_CPU))
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return run_ranks(look_at, 2, request.param, tmp_path_factory.mktemp("saved"))


def test_frameworks_train_as_single_does(found: list[Found]) -> None:
    for (name, precision), report in found[0].reports.items():
        assert_passed(report, spec(name, 2, precision=precision))
        assert report.parity is not None
        assert report.parity.average.keys() == {"sgd", "adamw"}


def test_a_training_goes_on_from_its_saved_state_to_the_bit(found: list[Found]) -> None:
    for rank in found:
        for name, straight in rank.straight.items():
            assert rank.resumed[name].losses == straight.losses[SAVED_AFTER:]
            assert same_bits(rank.resumed[name].parameters, straight.parameters)
            assert same_bits(rank.resumed[name].averages, straight.averages)


def test_frameworks_leave_nothing_behind(found: list[Found]) -> None:
    assert [rank.left for rank in found] == [[], []]


def test_what_ran_is_what_was_asked(found: list[Found]) -> None:
    for rank in found:
        for (name, precision), contract in rank.contracts.items():
            asked = toy_spec(name, precision=precision)
            assert contradictions(asked, contract) == []
            assert contract.sync_micro_batches == (2 if asked.grad_sync == "every_micro_batch" else 1)
            if precision == "bf16":
                assert contract.model_dump() == contract.model_dump() | MATCHED_BF16
                assert contract.casting == CASTING[name]


def test_a_silent_substitute_for_fp16_is_found_out(found: list[Found]) -> None:
    for rank in found:
        assert rank.fp16
        for name, sentences in rank.fp16.items():
            assert f"asked matrix products in float16, observed {INSTEAD_OF_FP16[name]}" in sentences


def test_a_wrapper_that_accelerate_leaves_out_in_silence_is_found_out(found: list[Found]) -> None:
    for rank in found:
        said = "Accelerate was asked for FSDPModule and made DistributedDataParallel"
        assert rank.unwrapped == (said if "accelerate_ddp" in rank.straight else None)
