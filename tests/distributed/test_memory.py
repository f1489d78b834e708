"""What a rank's tensors hold, by category: against the formulas, torch's own allocator, and counting by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from scalebench import workloads
from scalebench.meters.tensor_peak import measure_memory
from scalebench.records.memory import MemorySplit
from scalebench.scheme import model_of, scheme_of
from scalebench.spec import RunSpec
from scalebench.theory.memory import Memory, memory
from tests.distributed.cells import CPU, cell, running
from tests.distributed.ranks import run_ranks

SHAPE: dict[str, Any] = {"num_layers": 3, "hidden_size": 128, "vocab_size": 512, "context_length": 64}
"""669 thousand parameters, and activations of the same order."""


def measured(specs: list[RunSpec]) -> list[dict[str, Any]]:
    found = []
    for spec in specs:
        with running(spec) as (step, batches):
            found.append(measure_memory(step, batches, CPU))
    return found


def expected(spec: RunSpec) -> Memory:
    workload = workloads.create("gpt", "tiny", spec.workload_options)
    model = model_of(workload)
    scheme = scheme_of(spec, model)
    assert scheme is not None
    return memory(model, scheme, workload.saved_activations(), spec.micro_batch)


def gpt(strategy: str, ranks: int, options: Mapping[str, Any] | None = None, **fields: Any) -> RunSpec:
    return cell(strategy, ranks, options, SHAPE, **({"micro_batch": 4} | fields))


def cells(ranks: int) -> list[RunSpec]:
    """Every way in which parameters, gradients and optimizer state are kept."""
    names = ["ddp", "fsdp", "fsdp1", *(f"deepspeed_stage_{stage}" for stage in range(4))]
    return [gpt(name, ranks, precision=precision) for name in names for precision in ("fp32", "bf16")] + [
        gpt("single" if ranks == 1 else "fsdp_hybrid", ranks),
        gpt("ddp", ranks, {"gradient_as_bucket_view": True}, accumulation=2),
        gpt("ddp", ranks, activation_checkpointing=True),
        gpt("fsdp", ranks, accumulation=2, grad_sync="last"),
        gpt("fsdp", ranks, precision="bf16-true"),
        gpt("deepspeed_stage_1", ranks, accumulation=2, precision="bf16"),
        gpt("deepspeed_stage_3", ranks, {"stage3_param_persistence_threshold": 1000, "reduce_bucket_size": 1_000_000}),
    ]


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
def test_every_strategy_holds_what_the_formula_says(ranks: int) -> None:
    specs = cells(ranks)
    for results in run_ranks(measured, ranks, specs):
        for spec, found in zip(specs, results, strict=True):
            theory, where = expected(spec), f"{spec.strategy} {spec.strategy_options} {spec.precision}"
            assert found["parameters"] == pytest.approx(theory.parameters, rel=0.02), where
            assert found["optimizer_state"] == pytest.approx(theory.optimizer_state, rel=0.02), where
            assert found["gradients"] == pytest.approx(theory.gradients, rel=0.05), where
            assert found["tensor_peak"] == pytest.approx(theory.peak, rel=0.05), where


@pytest.mark.slow
@pytest.mark.distributed
def test_four_ranks_hold_a_quarter_of_what_is_sharded() -> None:
    """The quick part of the above for four ranks, and said without the formula."""
    specs = [gpt(name, 4) for name in ("ddp", "fsdp", "deepspeed_stage_2", "deepspeed_stage_3")]
    for ddp, fsdp, stage_2, stage_3 in run_ranks(measured, 4, specs):
        whole = ddp["parameters"]
        assert fsdp["parameters"] == pytest.approx(whole / 4, rel=0.02)
        assert (stage_2["parameters"], stage_3["parameters"]) == pytest.approx((whole, whole / 4), rel=0.02)
        assert ddp["optimizer_state"] == pytest.approx(2 * whole, rel=0.02)
        assert fsdp["optimizer_state"] == pytest.approx(2 * whole / 4, rel=0.02)
        assert stage_2["optimizer_state"] == pytest.approx(3 * whole / 4, rel=0.02), "with the fp32 copy"
        assert stage_3["optimizer_state"] == pytest.approx(3 * whole / 4, rel=0.02), "with the fp32 copy"
        for sharded in (fsdp, stage_2, stage_3):
            assert sharded["gradients"] == pytest.approx(whole / 4, rel=0.05)


def test_activations_are_those_of_the_formula() -> None:
    for precision in ("fp32", "bf16"):
        spec = gpt("single", 1, precision=precision)
        (found,) = measured([spec])
        theory, split = expected(spec), found["split"]
        assert split.activations == pytest.approx(theory.activations, rel=0.01), precision
        assert split.other == pytest.approx(theory.other, rel=0.01), "the loss's gradients: the peak is at the turn"


def test_categories_sum_to_the_peak() -> None:
    (found,) = measured([gpt("single", 1)])
    split: MemorySplit = found["split"]
    assert sum(split.model_dump().values()) == found["tensor_peak"]
    assert split.parameters == found["parameters"]
    assert split.optimizer_state == found["optimizer_state"]
    assert split.communication_buffers == 0


def test_the_peak_of_one_process_is_what_torchs_allocator_says() -> None:
    spec = gpt("single", 1)
    with running(spec) as (step, batches):
        at_rest = sum(p.numel() for p in step.module.parameters()) * 4 * 3  # with two moments; gradients are new
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            step(batches)  # from here on the profiler knows what is freed
            step(batches)
        found = measure_memory(step, batches, CPU)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = [0]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held.append(held[-1] + event.nbytes())
    assert found["tensor_peak"] == pytest.approx(at_rest + max(held[len(held) // 2 :]), rel=0.005)


@pytest.mark.distributed
def test_buckets_and_gathered_parameters_are_told_apart_from_activations() -> None:
    specs = [gpt(name, 2) for name in ("ddp", "fsdp_shard_grad_op", "deepspeed_stage_3")]
    (alone,) = measured([gpt("single", 1)])
    parameters = expected(specs[0]).parameters
    for ddp, sharded, zero in run_ranks(measured, 2, specs):
        assert ddp["split"].communication_buffers == pytest.approx(parameters, abs=64), "one bucket"
        assert sharded["split"].communication_buffers > parameters, "gathered whole, and one block twice"
        assert zero["split"].communication_buffers > 4 * 6_553_600, "the bucket alone is larger than the model"
        for found in (ddp, zero):
            assert found["split"].activations == pytest.approx(alone["split"].activations, rel=0.02)


def test_compiled_regions_leave_the_peak_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalebench.compat.compiled_graphs", lambda: 1)
    (found,) = measured([gpt("single", 1)])
    assert "tensor_peak" not in found
    assert found["gradients"] == expected(gpt("single", 1)).gradients
