"""What the backends really send, on real ranks, against the formulas: by kind, count and payload, and on the wire."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from scalebench import workloads
from scalebench.meters.communication import Trace, length, measure_communication, outside, profiled, union
from scalebench.meters.contract import watch
from scalebench.records.communication import CommunicationFacts
from scalebench.scheme import model_of, scheme_of
from scalebench.spec import RunSpec
from scalebench.theory.communication import traffic
from tests.distributed.cells import CPU, LARGE, OPTION_SETS, cell, running
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

Found = dict[tuple[str, int], tuple[int, int]]
"""Kind and ranks to count and payload bytes."""


def observed(specs: list[RunSpec]) -> list[Found]:
    """What one step of each cell sends, flags and norms left out, as torch issues it."""
    found = []
    for spec in specs:
        totals: dict[tuple[str, int], tuple[int, int]] = {}
        with running(spec) as (step, batches):
            for one in watch(step, batches, CPU).collectives:
                if not one.control and one.ranks > 1:
                    count, payload = totals.get((one.kind, one.ranks), (0, 0))
                    totals[one.kind, one.ranks] = count + 1, payload + one.payload_bytes
        found.append(totals)
    return found


def expected(spec: RunSpec) -> Found:
    model = model_of(workloads.create("gpt", "tiny", spec.workload_options), whole_regions=spec.compile)
    scheme = scheme_of(spec, model)
    assert scheme is not None
    return {(str(c.kind), c.ranks): (c.count, c.payload_bytes) for c in traffic(model, scheme)}


def assert_as_expected(specs: list[RunSpec], ranks: int) -> None:
    for results in run_ranks(observed, ranks, specs):
        for spec, found in zip(specs, results, strict=True):
            assert found == expected(spec), f"{spec.strategy} {spec.strategy_options} {spec.accumulation=}"


REPLICATED = [
    cell("ddp", 2),
    cell("ddp", 2, accumulation=3),
    cell("ddp", 2, accumulation=2, grad_sync="every_micro_batch", precision="bf16"),
    cell("ddp", 2, {"bucket_cap_mb": 0.15}),
    cell("ddp", 2, {"gradient_compression": "fp16"}),
    cell("ddp_find_unused_parameters_true", 2),
    cell("ddp_static_graph", 2, accumulation=2, precision="bf16-true"),
]
SHARDED = [
    cell("fsdp", 2),
    cell("fsdp", 2, accumulation=2, grad_sync="last", precision="bf16"),
    cell("fsdp", 2, precision="bf16", profile="backend-default", activation_checkpointing=True),
    cell("fsdp", 2, {"prefetch": 1}),
    cell("fsdp_shard_grad_op", 2, accumulation=2),
    cell("fsdp_cpu_offload", 2),
    cell("fsdp1", 2, accumulation=2),
    cell("fsdp1", 2, {"sharding_strategy": "SHARD_GRAD_OP"}, accumulation=2, grad_sync="last", precision="bf16"),
]


@pytest.mark.parametrize("specs", [REPLICATED, SHARDED], ids=["replicated", "sharded"])
def test_torch_strategies_send_what_the_formula_says_to_the_byte(specs: list[RunSpec]) -> None:
    assert_as_expected(specs, 2)


def test_four_ranks_in_groups_send_what_the_formula_says() -> None:
    specs = [
        cell("fsdp_hybrid", 4, accumulation=2),
        cell("fsdp", 4, {"reshard_after_forward": 2}),
        cell("fsdp", 4, {"shard_size": 2, "reshard_after_forward": False}, precision="bf16"),
    ]
    assert_as_expected(specs, 4)


TIGHT = {
    "stage3_max_live_parameters": 60_000,
    "stage3_max_reuse_distance": 40_000,
    "stage3_param_persistence_threshold": 200,
    "stage3_prefetch_bucket_size": 20_000,
}
NOTHING_KEPT = dict.fromkeys(TIGHT, 0)
SMALL_KEPT = TIGHT | {"stage3_param_persistence_threshold": 5000}
"""Under accumulation what is freed when was decided before the small parameters were first gathered."""
BELOW_3 = [
    cell("deepspeed_stage_0", 2, accumulation=2, precision="bf16"),
    cell("deepspeed_stage_1", 2, accumulation=2),
    cell("deepspeed_stage_1", 2, {"overlap_comm": False, "reduce_bucket_size": 30_000}),
    cell("deepspeed_stage_1", 2, precision="bf16"),
    cell("deepspeed_stage_2", 2, {"reduce_bucket_size": 30_000}, accumulation=2, precision="bf16"),
    cell("deepspeed_stage_2", 2, accumulation=2, grad_sync="last", profile="backend-default", precision="bf16"),
]
STAGE_3 = [
    cell("deepspeed_stage_3", 2),
    cell("deepspeed_stage_3", 2, profile="backend-default", accumulation=2),
    cell("deepspeed_stage_3", 2, TIGHT, accumulation=2, precision="bf16"),
    cell("deepspeed_stage_3", 2, SMALL_KEPT, accumulation=2),
    cell("deepspeed_stage_3", 2, NOTHING_KEPT, profile="backend-default"),
    cell("deepspeed_stage_3", 2, {"reduce_scatter": False, "reduce_bucket_size": 30_000}),
    cell("deepspeed_stage_3", 2, activation_checkpointing=True),
]


@pytest.mark.parametrize("specs", [BELOW_3, STAGE_3], ids=["stages 0 to 2", "stage 3"])
def test_deepspeed_sends_what_the_formula_says_to_the_byte(specs: list[RunSpec]) -> None:
    assert_as_expected(specs, 2)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(("strategy", "options"), OPTION_SETS)
def test_eleven_million_parameters(strategy: str, options: dict[str, Any], accumulation: int, ranks: int) -> None:
    assert_as_expected([cell(strategy, ranks, options, LARGE, accumulation=accumulation)], ranks)


def measured(specs: list[RunSpec]) -> list[CommunicationFacts | None]:
    found = []
    for spec in specs:
        with running(spec) as (step, batches):
            found.append(measure_communication(step, batches, watch(step, batches, CPU), CPU))
    return found


def test_every_collective_is_timed_and_exposed_time_is_part_of_the_whole() -> None:
    specs = [cell("ddp", 2, {"bucket_cap_mb": 0.15}), cell("fsdp", 2), cell("deepspeed_stage_3", 2)]
    for results in run_ranks(measured, 2, specs):
        for spec, facts in zip(specs, results, strict=True):
            assert facts is not None
            assert facts.unknown_because is None
            counted = {(c.kind, c.ranks): (c.count, c.payload_bytes) for c in facts.collectives}
            assert counted == expected(spec)
            assert facts.total_seconds is not None
            assert facts.exposed_seconds is not None
            assert facts.step_seconds is not None
            assert 0 <= facts.exposed_seconds <= facts.total_seconds <= facts.step_seconds
            by_kind = [c.seconds for c in facts.collectives if c.seconds is not None]
            assert len(by_kind) == len(facts.collectives)
            assert 0 < max(by_kind) <= facts.total_seconds


def in_vain_and_at_work() -> list[Trace]:
    """A rank that waits for its collective, and one that multiplies matrices until it is done."""
    tensor, matrix = torch.ones(4_000_000), torch.ones(200, 200)

    def wait(batches: object) -> None:
        dist.all_reduce(tensor)

    def work(batches: object) -> None:
        handle = dist.all_reduce(tensor, async_op=True)
        assert handle is not None
        while not handle.is_completed():
            matrix @ matrix
        handle.wait()

    return [profiled(step, [], CPU) for step in (wait, work)]  # type: ignore[arg-type]


def test_waiting_is_exposed_and_working_is_not() -> None:
    for waiting, working in run_ranks(in_vain_and_at_work, 2):
        exposed = []
        for trace in (waiting, working):
            ((kind, interval),) = trace.collectives
            assert kind == "all_reduce"
            exposed.append(length(outside([interval], union(trace.computing))) / length([interval]))
        assert exposed[0] == pytest.approx(1.0)
        assert exposed[1] < 0.5, "Python between two products counts as exposed"


def test_one_rank_has_nobody_to_communicate_with() -> None:
    assert run_ranks(measured, 1, [cell("ddp", 1)]) == [[None]]
