"""The contract as observed, against what is known by other means; and substitutes for what was asked, found out."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from scalebench import strategies, workloads
from scalebench.harness.runner import execute
from scalebench.meters.contract import contract_of, contradictions, few, watch
from scalebench.records.record import Contract
from scalebench.spec import PlannedRun, RunSpec
from scalebench.strategies.base import Batch, Strategy, TrainStep, Workload
from scalebench.strategies.config import OptimizerConfig, TrainConfig
from scalebench.strategies.ddp import DDP
from scalebench.strategies.single import Single
from scalebench.theory.flops import attention_flops_per_token, gpt_flops_per_sample
from tests.distributed.ranks import run_ranks
from tests.distributed.test_runner import TINY_STEPS, Watcher, tiny
from tests.distributed.toy import Toy
from tests.distributed.training import CPU, rank, supported

TOY = Toy()


def spec(strategy: str, world_size: int = 2, **changes: Any) -> RunSpec:
    fields: dict[str, Any] = {
        "workload": "toy", "size": "toy", "data": "synthetic", "strategy": strategy, "device": "cpu",
        "world_size": world_size, "micro_batch": 3, "accumulation": 2,
        "grad_sync": strategies.default_grad_sync(strategy),
    }  # fmt: skip
    return RunSpec.model_validate(fields | changes)


def prepared(asked: RunSpec, strategy: Strategy | None = None) -> TrainStep:
    """A step of the toy that ran once, so that nothing is left to set up."""
    chosen = strategy or strategies.create(asked.strategy, asked.strategy_options)
    step = chosen.prepare(TOY, asked.train_config(), CPU)
    step(TOY.share(0, rank(), asked.accumulation))
    return step


def observe(step: TrainStep, micro_batches: list[Batch], asked: RunSpec, device: torch.device) -> Contract:
    return contract_of(watch(step, micro_batches, device), step, asked, device)


def seen(asked: RunSpec, strategy: Strategy | None = None) -> Contract:
    step = prepared(asked, strategy)
    contract = observe(step, TOY.share(1, rank(), asked.accumulation), asked, CPU)
    step.close()
    return contract


def all_seen(asked: list[RunSpec]) -> list[Contract]:
    return [seen(each) for each in asked]


EXPECTED: dict[str, dict[str, Any]] = {
    "ddp": {"wrapper": "DistributedDataParallel", "parameter": "float32", "casting": "autocast"},
    "fsdp": {"wrapper": "FSDPModule", "parameter": "float32", "casting": "sharded-cast"},
    "fsdp_cpu_offload": {
        "wrapper": "FSDPModule", "parameter": "float32", "casting": "sharded-cast", "offloaded": True,
    },
    "fsdp1": {"wrapper": "FullyShardedDataParallel", "parameter": "float32", "casting": "sharded-cast"},
    "deepspeed_stage_0": {"wrapper": "DeepSpeedEngine", "parameter": "float32", "casting": "autocast"},
    "deepspeed_stage_1": {"wrapper": "DeepSpeedEngine", "parameter": "bfloat16", "casting": "engine-cast"},
    "deepspeed_stage_2": {"wrapper": "DeepSpeedEngine", "parameter": "bfloat16", "casting": "engine-cast"},
    "deepspeed_stage_3": {"wrapper": "DeepSpeedEngine", "parameter": "bfloat16", "casting": "engine-cast"},
}  # fmt: skip
"""What each backend's documentation says it makes of bf16; and what is the same of all, unless said above."""
MATCHED_BF16 = {
    "compute": "bfloat16", "gradient_reduce": "float32", "gradient_accumulation": "float32", "master": "float32",
    "optimizer_state": "float32", "optimizer": "AdamW(fused)", "world_size": 2, "micro_batches": 2, "recomputed": 0,
    "compiled_regions": 0, "offloaded": False,
}  # fmt: skip


@pytest.mark.distributed
@pytest.mark.parametrize("package", ["torch", "deepspeed"])
def test_every_backend_in_bf16_is_what_its_documentation_says(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    names = [name for name in EXPECTED if name.startswith("deepspeed") == (package == "deepspeed")]
    asked = supported([spec(name, precision="bf16") for name in names])
    for contracts in run_ranks(all_seen, 2, asked):
        for each, contract in zip(asked, contracts, strict=True):
            found = contract.model_dump()
            assert {key: found[key] for key in MATCHED_BF16} == MATCHED_BF16 | {
                key: value for key, value in EXPECTED[each.strategy].items() if key in MATCHED_BF16
            }
            assert found == found | EXPECTED[each.strategy]
            assert contract.sync_micro_batches == (2 if each.grad_sync == "every_micro_batch" else 1)
            assert contradictions(each, contract) == []


def dtypes_by_hooks(asked: RunSpec) -> tuple[Contract, set[torch.dtype], set[torch.dtype], list[bool]]:
    """The contract; and by torch's own hooks the dtypes of linear outputs and of DDP's buckets, and when those came."""
    step = prepared(asked)
    linear: set[torch.dtype] = set()
    buckets: set[torch.dtype] = set()
    crossed: list[bool] = []

    def reduce(group, bucket):  # type: ignore[no-untyped-def]  # DDP compares annotations with classes, not with names
        buckets.add(bucket.buffer().dtype)
        crossed[-1] = True
        return dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future().then(lambda done: done.value()[0])

    assert isinstance(step.module, DistributedDataParallel)
    step.module.register_comm_hook(None, reduce)
    step.module.register_forward_pre_hook(lambda module, args: crossed.append(False))
    for child in step.module.modules():
        if isinstance(child, nn.Linear):
            child.register_forward_hook(lambda module, args, out: linear.add(out.dtype))
    contract = observe(step, TOY.share(1, rank(), asked.accumulation), asked, CPU)
    return contract, linear, buckets, crossed


@pytest.mark.distributed
@pytest.mark.parametrize("grad_sync", ["last", "every_micro_batch"])
def test_what_is_observed_of_ddp_is_what_torchs_own_hooks_see(grad_sync: str) -> None:
    for contract, linear, buckets, crossed in run_ranks(
        dtypes_by_hooks, 2, spec("ddp", precision="bf16", grad_sync=grad_sync, accumulation=3)
    ):
        assert (linear, buckets) == ({torch.bfloat16}, {torch.float32})
        assert (contract.compute, contract.gradient_reduce) == ("bfloat16", "float32")
        assert (contract.sync_micro_batches, contract.micro_batches) == (sum(crossed), len(crossed))
        assert contract.grad_sync == grad_sync


class Substitute(DDP):
    """DDP that does something else than it was asked to."""

    def instead(self, config: TrainConfig) -> TrainConfig:
        raise NotImplementedError

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> Any:
        return super().prepare(workload, self.instead(config), device)


class IgnoresPrecision(Substitute):
    def instead(self, config: TrainConfig) -> TrainConfig:
        return dataclasses.replace(config, precision="fp32")


class RunsBf16(Substitute):
    def instead(self, config: TrainConfig) -> TrainConfig:
        return dataclasses.replace(config, precision="bf16")


class StoresBf16(Substitute):
    def instead(self, config: TrainConfig) -> TrainConfig:
        return dataclasses.replace(config, precision="bf16-true")


class ForgetsOptions(Substitute):
    def instead(self, config: TrainConfig) -> TrainConfig:
        return dataclasses.replace(
            config, activation_checkpointing=False, compile=False, optimizer=OptimizerConfig(name="sgd")
        )


class SyncsAlways(Substitute):
    def instead(self, config: TrainConfig) -> TrainConfig:
        return dataclasses.replace(config, grad_sync="every_micro_batch")


class WrapsNothing(DDP):
    """Every rank trains alone, as a launcher that was misunderstood lets happen."""

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> Any:
        return Single().prepare(workload, config, device)


SUBSTITUTES: list[tuple[Strategy, dict[str, Any], list[str]]] = [
    (DDP(), {"precision": "bf16"}, []),
    (IgnoresPrecision(), {"precision": "bf16"}, ["asked matrix products in bfloat16, observed float32"]),
    (IgnoresPrecision(), {"precision": "fp16"}, ["asked matrix products in float16, observed float32"]),
    (RunsBf16(), {"precision": "fp16"}, ["asked matrix products in float16, observed bfloat16"]),
    (RunsBf16(), {"precision": "fp32"}, ["asked matrix products in float32, observed bfloat16"]),
    (
        StoresBf16(),
        {"precision": "bf16"},
        [
            "asked optimizer state in float32, observed bfloat16",
            "asked updates of values in float32, observed bfloat16",
        ],
    ),
    (
        ForgetsOptions(),
        {"activation_checkpointing": True, "compile": True},
        [
            "asked optimizer AdamW(fused), observed SGD(foreach)",
            "asked optimizer state in float32, observed none",
            "asked activation checkpointing on, observed off",
            "asked compilation on, observed off",
        ],
    ),
    (SyncsAlways(), {}, ["asked gradients reduced on micro-batches: last, observed every_micro_batch"]),
    (
        WrapsNothing(),
        {},
        [
            "asked gradients reduced in float32, observed none",
            "asked wrapper DistributedDataParallel, observed none",
            "asked gradients reduced on micro-batches: last, observed 0 of 2",
        ],
    ),
]


def found_out() -> list[list[str]]:
    asked = [spec("ddp", **changes) for _, changes, _ in SUBSTITUTES]
    return [
        contradictions(each, seen(each, strategy)) for each, (strategy, _, _) in zip(asked, SUBSTITUTES, strict=True)
    ]


@pytest.mark.distributed
def test_a_silent_substitute_is_found_out_on_every_rank() -> None:
    for found in run_ranks(found_out, 2):
        for sentences, (strategy, _, expected) in zip(found, SUBSTITUTES, strict=True):
            assert sorted(sentences) == sorted(expected), type(strategy).__name__


@pytest.mark.slow
@pytest.mark.distributed
def test_compiled_regions_are_counted_and_looked_into_uncompiled() -> None:
    (contract,) = run_ranks(seen_compiled, 1, spec("single", 1, compile=True, activation_checkpointing=True))
    assert contract.compiled_regions in (1, TOY.depth), "one graph for all blocks; one for each with an old torch"
    assert (contract.recomputed, contract.flops_per_step) == (TOY.depth * 2, None)
    assert contract.compute == "float32"
    assert len(contract.observer_notes) == 1


@pytest.mark.parametrize(("graphs", "samples"), [(0, 3), (1, 2)])
def test_what_has_to_run_uncompiled_runs_with_few_samples(
    monkeypatch: pytest.MonkeyPatch, graphs: int, samples: int
) -> None:
    """A compiled run may fill the memory with a batch that does not fit as the model was written."""
    monkeypatch.setattr("scalebench.compat.compiled_graphs", lambda: graphs)
    step, batches, _, device = gpt()
    larger = [{name: torch.cat([tensor, tensor[:1]]) for name, tensor in batch.items()} for batch in batches]
    seen: list[int] = []
    step.module.register_forward_pre_hook(lambda module, args: seen.append(len(args[0]["tokens"])))
    watch(step, larger, device)
    assert seen == [samples] * 2


def test_a_batch_whose_tensors_count_different_things_is_left_whole() -> None:
    batch = {"nodes": torch.ones(5, 2), "graphs": torch.ones(3)}
    assert few(batch) is batch


def seen_compiled(asked: RunSpec) -> Contract:
    """With dynamo's graphs run as they are: how they are translated to machine code is not of interest here."""
    compile_module = nn.Module.compile
    nn.Module.compile = lambda module, **options: compile_module(module, backend="eager", **options)  # type: ignore[method-assign]
    contract = seen(asked)
    assert contradictions(asked, contract) == []
    return contract


def gpt(**changes: Any) -> tuple[TrainStep, list[Batch], RunSpec, torch.device]:
    """The smallest real model under `single`, having run once, and what `observe` asks for beside it."""
    asked = tiny("single", 1, accumulation=2, **changes)
    workload = workloads.create("gpt", "tiny", {})
    samples = workload.samples("synthetic", 0)
    batches = [samples.__getitems__([0, 1]), samples.__getitems__([2, 3])]
    step = Single().prepare(workload, asked.train_config(), CPU)
    step(batches)
    return step, batches, asked, CPU


def test_flops_are_those_of_the_formula_and_of_torchs_counter() -> None:
    step, batches, asked, device = gpt()
    contract = observe(step, batches, asked, device)
    config = workloads.resolve_config("gpt", "tiny", {})
    shape = {name: getattr(config, name) for name in ("num_layers", "hidden_size", "context_length")}
    model = gpt_flops_per_sample(**shape, vocab_size=config.vocab_size)
    # Flash attention computes the scores a second time in the backward pass, which a model's FLOPs leave out.
    scores_again = config.context_length * attention_flops_per_token(**shape) / 2
    assert contract.flops_per_step == 4 * (model + scores_again)
    with FlopCounterMode(display=False) as counter:
        step(batches)
    attention = 4 * config.context_length * attention_flops_per_token(**shape)
    assert counter.get_total_flops() + 3.5 * attention == contract.flops_per_step, "torch's does not know it on the CPU"


def test_checkpointing_computes_each_blocks_forward_a_second_time() -> None:
    config = workloads.resolve_config("gpt", "tiny", {})
    plain, again = observe(*gpt()), observe(*gpt(activation_checkpointing=True))
    assert plain.flops_per_step is not None
    assert again.flops_per_step is not None
    width, tokens = config.hidden_size, 4 * config.context_length
    # 12 d² weights and attention; but not the last product of each block, whose result no backward pass asks for.
    forward = config.num_layers * (2 * 12 * width**2 + 4 * width * config.context_length) * tokens
    last = config.num_layers * 2 * 4 * width**2 * tokens
    assert again.flops_per_step - plain.flops_per_step == forward - last
    assert (plain.recomputed, again.recomputed) == (0, config.num_layers * 2)


CHEAT = """
import dataclasses
from scalebench.strategies.ddp import DDP

class Cheat(DDP):
    name = "cheat"

    def prepare(self, workload, config, device):
        return super().prepare(workload, dataclasses.replace(config, precision="fp32"), device)
"""


@pytest.mark.distributed
def test_a_run_that_was_not_what_was_asked_fails_and_keeps_its_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "cheat-1.dist-info"
    package.mkdir()
    (tmp_path / "cheat.py").write_text(CHEAT)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: cheat\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[scalebench.strategies]\ncheat = cheat:Cheat\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    runs = [PlannedRun(spec=tiny("cheat", precision="bf16"))]
    ((record, _),) = execute(runs, results=tmp_path / "results", progress=Watcher())
    assert (record.status, record.reason) == (
        "failed",
        "what ran is not what was asked: asked matrix products in bfloat16, observed float32",
    )
    assert record.contract is not None
    assert record.contract.compute == "float32"
    assert [len(facts.step_end_ns) for facts in record.ranks] == [TINY_STEPS] * 2, "what was measured is kept"
