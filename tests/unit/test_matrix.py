"""What is asked against what runs: the rules of scaling, the baseline, the shares of a CPU and the order of runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from scalebench import strategies
from scalebench.errors import UserError
from scalebench.machine import Machine
from scalebench.matrix import Request, RequestError, plan, resolve
from scalebench.matrix.options import option_types, strategy_options
from scalebench.spec import RunSpec

CPU = Machine(device="cpu", gpu_count=0, cores=2, bf16_native=False)
GPUS = Machine(device="cuda", gpu_count=8, cores=64, bf16_native=True, gpu_names=("NVIDIA H100",) * 8)

rank_lists = st.lists(st.integers(1, 8), min_size=1, max_size=4)


def cells(machine: Machine = CPU, **asked: Any) -> list[RunSpec]:
    return resolve(Request(**({"strategy": "ddp"} | asked)), machine)


def test_strategy_and_gpus_alone_mean_what_is_documented() -> None:
    baseline, fsdp = cells(GPUS, strategy="fsdp", gpus="4")
    assert (baseline.strategy, baseline.world_size) == ("single", 1)
    assert (fsdp.strategy, fsdp.world_size) == ("fsdp", 4)
    for spec in (baseline, fsdp):
        assert (spec.workload, spec.size, spec.precision, spec.scaling) == ("gpt", "124m", "bf16", "weak")
        assert (spec.data, spec.device, spec.profile) == ("text:stdlib", "cuda", "matched")
        assert (spec.threads_per_rank, spec.cores_per_rank) == (None, None)
    assert baseline.micro_batch == fsdp.micro_batch


def test_a_cpu_gets_the_tiny_size_and_fp32_unless_bf16_is_native() -> None:
    assert {(s.size, s.precision) for s in cells()} == {("tiny", "fp32")}
    native = Machine(device="cpu", gpu_count=0, cores=2, bf16_native=True)
    assert {s.precision for s in cells(native)} == {"bf16"}


@pytest.mark.parametrize(
    ("word", "precision"),
    [
        ("32", "fp32"),
        ("32-true", "fp32"),
        ("16", "fp16"),
        ("16-mixed", "fp16"),
        ("bf16-mixed", "bf16"),
        ("bf16-true", "bf16-true"),
        ("16-true", "fp16-true"),
        ("fp16", "fp16"),
    ],
)
def test_lightnings_words_for_precisions(word: str, precision: str) -> None:
    assert {s.precision for s in cells(precision=word)} == {precision}


def test_every_precision_has_its_baseline_and_no_cell_is_there_twice() -> None:
    found = cells(strategy="ddp,single,ddp", gpus="1,2,1", precision="fp32,bf16,32")
    assert Counter((s.strategy, s.world_size, s.precision) for s in found) == {
        (strategy, ranks, precision): 1
        for precision in ("fp32", "bf16")
        for strategy, ranks in (("single", 1), ("ddp", 1), ("ddp", 2))
    }


def test_the_baseline_can_be_left_out_and_single_asked_by_name() -> None:
    assert {s.strategy for s in cells(baseline=False)} == {"ddp"}
    assert [(s.strategy, s.world_size) for s in cells(strategy="single", gpus="2", baseline=False)] == [("single", 1)]


@given(ranks=rank_lists, micro_batch=st.integers(1, 64), accumulation=st.integers(1, 8))
def test_weak_scaling_keeps_the_micro_batch(ranks: list[int], micro_batch: int, accumulation: int) -> None:
    for spec in cells(GPUS, gpus=ranks, micro_batch=micro_batch, accumulation=accumulation):
        assert (spec.micro_batch, spec.accumulation) == (micro_batch, accumulation)
        assert spec.global_batch == micro_batch * accumulation * spec.world_size


@given(ranks=rank_lists, global_batch=st.integers(1, 5000), kept=st.sampled_from(["micro_batch", "accumulation"]))
@settings(max_examples=200)
def test_strong_scaling_keeps_the_global_batch_or_names_one_that_divides(
    ranks: list[int], global_batch: int, kept: str
) -> None:
    asked: dict[str, Any] = {"gpus": ranks, "scaling": "strong", kept: 4}
    try:
        found = cells(GPUS, global_batch=global_batch, **asked)
    except UserError as error:
        suggested = int(str(error).rsplit("--global-batch ", 1)[1].rstrip("."))
        assert abs(suggested - global_batch) <= 840 * 4, "840 is the least common multiple of 1 to 8"
        found, global_batch = cells(GPUS, global_batch=suggested, **asked), suggested
    assert {spec.global_batch for spec in found} == {global_batch}
    assert {getattr(spec, kept) for spec in found} == {4}
    assert found[0].strategy == "single", "the baseline has the same global batch"


def test_strong_scaling_without_a_global_batch_keeps_that_of_the_most_ranks() -> None:
    found = cells(scaling="strong", gpus="1,2", micro_batch=8)
    assert [(s.strategy, s.world_size, s.micro_batch, s.accumulation) for s in found] == [
        ("single", 1, 8, 2),
        ("ddp", 1, 8, 2),
        ("ddp", 2, 8, 1),
    ]


def test_a_global_batch_alone_means_strong_scaling() -> None:
    assert {s.scaling for s in cells(global_batch=16)} == {"strong"}
    with pytest.raises(RequestError, match="--scaling strong"):
        cells(global_batch=16, scaling="weak")
    both = cells(global_batch="16,32", scaling="weak,strong", strategy="single", micro_batch="8")
    assert sorted((s.scaling, s.global_batch) for s in both) == [("strong", 16), ("strong", 32), ("weak", 8)]


def test_a_batch_fixed_from_all_sides_is_refused() -> None:
    with pytest.raises(RequestError, match="Leave one"):
        cells(global_batch=16, micro_batch=4, accumulation=2)


@given(cores=st.integers(1, 16), ranks=rank_lists)
def test_every_cell_has_the_same_share_of_the_cores(cores: int, ranks: list[int]) -> None:
    machine = Machine(device="cpu", gpu_count=0, cores=cores, bf16_native=False)
    found = resolve(Request(strategy="ddp,fsdp", gpus=ranks), machine)
    (share,) = {(s.threads_per_rank, s.cores_per_rank) for s in found}
    if max(ranks) > cores:
        assert share == (1, None)
    else:
        assert share[0] == share[1] == cores // max(ranks)


def test_all_is_every_gpu_or_every_core() -> None:
    assert max(s.world_size for s in cells(GPUS, gpus="all")) == 8
    assert max(s.world_size for s in cells(gpus="all")) == 2
    assert {s.world_size for s in cells(GPUS)} == {1, 8}


@pytest.mark.parametrize(("gpu_count", "expected"), [(1, {1}), (2, {1, 2}), (6, {1, 2, 4, 6}), (8, {1, 2, 4, 8})])
def test_doubling_goes_up_to_every_gpu(gpu_count: int, expected: set[int]) -> None:
    machine = Machine(device="cuda", gpu_count=gpu_count, cores=8, bf16_native=True)
    assert {s.world_size for s in cells(machine, gpus="doubling")} == expected
    assert {s.world_size for s in cells(gpus="doubling")} == {1, 2}, "on a CPU"


@pytest.mark.parametrize(("machine", "gpus"), [(GPUS, "9"), (CPU, "1000000")])
def test_more_ranks_than_can_be_are_refused_with_how_many_there_are(machine: Machine, gpus: str) -> None:
    with pytest.raises(RequestError, match=r"there can be (8|64)") as caught:
        cells(machine, gpus=gpus)
    assert caught.value.key == ("gpus",)


def test_tf32_touches_fp32_alone() -> None:
    assert {(s.precision, s.tf32) for s in cells(GPUS, precision="fp32,bf16", tf32=True)} == {
        ("fp32", True),
        ("bf16", False),
    }
    with pytest.raises(RequestError, match="--precision fp32"):
        cells(GPUS, precision="bf16", tf32=True)


def test_no_strategy_is_an_error_that_names_some() -> None:
    with pytest.raises(UserError, match="--strategy ddp,fsdp"):
        resolve(Request(), CPU)


def test_options_reach_the_strategies_that_have_them() -> None:
    asked = {"strategy": {"reshard_after_forward": False}}
    found = {s.strategy: s.strategy_options for s in cells(strategy="ddp,fsdp,fsdp_shard_grad_op", gpus="1", set=asked)}
    assert found["fsdp"] == {"reshard_after_forward": False}
    assert found["ddp"] == found["single"] == found["fsdp_shard_grad_op"] == {}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"reshard_after_foward": False}, "Did you mean 'reshard_after_forward'"),
        ({"find_unused_parameters": True}, "unknown strategy option"),
        ({"reshard_after_forward": "perhaps"}, "reshard_after_forward cannot be 'perhaps'"),
        ({"cpu_offload": 2}, "bool"),
    ],
)
def test_a_wrong_option_is_named(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        cells(strategy="fsdp", set={"strategy": asked})
    assert caught.value.key == ("set", "strategy", next(iter(asked)))


def test_workload_options_are_stored_resolved() -> None:
    found = cells(set={"workload": {"num_layers": 3}})
    assert {s.workload_options["num_layers"] for s in found} == {3}
    assert {s.workload_options["vocab_size"] for s in found} == {256}
    with pytest.raises(RequestError, match="Did you mean 'num_layers'"):
        cells(set={"workload": {"num_layer": 3}})


def test_workload_options_are_judged_together() -> None:
    """512 does not divide into the size's own 12 heads."""
    (spec,) = cells(strategy="single", size="124m", set={"workload": {"hidden_size": 512, "num_heads": 8}})
    assert (spec.workload_options["hidden_size"], spec.workload_options["num_heads"]) == (512, 8)
    with pytest.raises(RequestError, match="512 does not divide into 12 heads") as refused:
        cells(strategy="single", size="124m", set={"workload": {"hidden_size": 512, "vocab_size": 64}})
    assert refused.value.key == ("set", "workload", "hidden_size")


@pytest.mark.parametrize("name", strategies.BUILTIN)
def test_every_built_in_strategy_says_its_options_types(name: str) -> None:
    for option, declared in option_types(name).items():
        assert strategy_options([name], {option: getattr(strategies.create(name), option)}), (option, declared)


@pytest.mark.parametrize("name", strategies.BUILTIN)
def test_the_registry_and_the_strategy_agree_on_gradient_reduction(name: str) -> None:
    assert strategies.default_grad_sync(name) == strategies.create(name).default_grad_sync


@pytest.mark.parametrize("name", strategies.BUILTIN)
def test_the_registry_and_the_strategy_agree_on_what_it_needs(name: str) -> None:
    assert strategies.needs(name) == strategies.strategy_class(name).needs


def test_gradient_reduction_follows_the_strategy_unless_asked() -> None:
    found = {s.strategy: s.grad_sync for s in cells(strategy="ddp,fsdp,deepspeed_stage_1,deepspeed_stage_3")}
    assert found == {
        "single": "last",
        "ddp": "last",
        "fsdp": "every_micro_batch",
        "deepspeed_stage_1": "last",
        "deepspeed_stage_3": "every_micro_batch",
    }
    asked = {s.strategy: s.grad_sync for s in cells(strategy="ddp", grad_sync="every_micro_batch")}
    assert asked == {"single": "last", "ddp": "every_micro_batch"}


def test_a_deepspeed_json_is_for_the_strategy_deepspeed() -> None:
    own = {"zero_optimization": {"stage": 1}}
    found = {s.strategy: s.strategy_options for s in cells(strategy="ddp,deepspeed", deepspeed_config=own)}
    assert found == {"single": {}, "ddp": {}, "deepspeed": {"config": own}}
    (reducing,) = {s.grad_sync for s in cells(strategy="deepspeed", deepspeed_config=own, baseline=False)}
    assert reducing == "last", "as of stage 1, not of 2"
    with pytest.raises(RequestError, match="--strategy deepspeed"):
        cells(strategy="deepspeed_stage_2", deepspeed_config=own)


def test_a_configuration_that_contradicts_a_cell_is_refused() -> None:
    own = {"train_batch_size": 8}
    assert cells(strategy="deepspeed", gpus=2, micro_batch=4, deepspeed_config=own)
    with pytest.raises(RequestError, match=r"deepspeed-1xcpu-fp32: train_batch_size is 8 .* but 4 ") as told:
        cells(strategy="deepspeed", gpus=[1, 2], micro_batch=4, deepspeed_config=own)
    assert told.value.key == ("deepspeed_config",)
    with pytest.raises(RequestError, match="train_batch_size") as told:
        cells(strategy="deepspeed_stage_2", micro_batch=1, set={"strategy": {"config": own}})
    assert told.value.key == ("set", "strategy", "config")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((count, bad) for count in ("steps", "repeats", "micro_batch", "gpus") for bad in ("0", "-1", "1.5", "x", "")),
        *((count, bad) for count in ("steps", "warmup_steps") for bad in (0, -3, 2.0, True, [0], [], [[1]], 10**30)),
        *(("target_precision", bad) for bad in ("0", "1", "100%", "-2%", "%", "two", True)),
        ("seed", "-1"),
        ("gpus", "1,,2"),
        ("gpus", []),
        ("gpus", "alle"),
        ("clip_norm", "0"),
        ("clip_norm", "nan"),
        ("clip_norm", "inf"),
        ("ema_decay", "1"),
        ("learning_rate", "none"),
        ("learning_rate", "1e999"),
        ("timeout", "-1"),
        ("strategy", "fsdpp"),
        ("strategy", 3),
        ("precision", "fp8"),
        ("workload", "gtp"),
        ("scaling", "weakly"),
        ("device", "tpu"),
        ("optimizer", "adam"),
        ("compile", "yes"),
        ("compile", 1),
        ("data", ""),
        ("results", "a\0b"),
    ],
)
def test_a_wrong_value_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Request(**{field: value})


def test_a_run_is_as_long_as_is_asked_or_as_its_steps_ask_for() -> None:
    def length(**asked: object) -> set[tuple[object, ...]]:
        found = cells(strategy="ddp", **asked)
        return {(s.warmup_steps, s.steps, s.target_precision, s.max_seconds) for s in found}

    assert length() == {(None, None, 0.02, 20.0)}
    assert length(steps="7") == {(None, 7, None, 20.0)}
    assert length(steps="7", warmup_steps="3") == {(3, 7, None, None)}
    assert length(warmup_steps="3", target_precision="1%", max_seconds="5") == {(3, None, 0.01, 5.0)}
    with pytest.raises(RequestError, match="--steps") as both:
        length(steps="7", target_precision="1%")
    assert both.value.key == ("target_precision",)
    with pytest.raises(RequestError, match="--warmup-steps") as bounded:
        length(steps="7", warmup_steps="3", max_seconds="5")
    assert bounded.value.key == ("max_seconds",)


def test_an_unknown_size_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean '124m'"):
        cells(size="125m")


@given(repeats=st.integers(1, 6), seed=st.integers(0, 1000), count=st.integers(1, 8))
def test_a_block_holds_every_cell_once(repeats: int, seed: int, count: int) -> None:
    specs = cells(GPUS, gpus=list(range(1, count + 1)))
    runs = plan(specs, repeats, seed)
    assert [run.repeat for run in runs] == sorted(run.repeat for run in runs)
    for repeat in range(repeats):
        block = [run.spec for run in runs if run.repeat == repeat]
        assert len(block) == len(specs)
        assert set(block) == set(specs)
    assert plan(specs, repeats, seed) == runs


def test_the_seed_decides_the_order() -> None:
    specs = cells(GPUS, gpus="1,2,4,8")
    orders = {tuple(run.spec.cell_id for run in plan(specs, 1, seed)) for seed in range(20)}
    assert len(orders) > 10
    blocks = plan(specs, 4, 0)
    size = len(specs)
    assert len({tuple(run.spec.cell_id for run in blocks[i * size : (i + 1) * size]) for i in range(4)}) > 1


def test_parity_is_checked_once_per_cell_before_anything_is_measured() -> None:
    specs = cells(strategy="ddp,fsdp", gpus="2")
    runs = plan(specs, 2, 0, parity=True)
    assert [(run.kind, run.spec.strategy) for run in runs[:2]] == [("parity", "ddp"), ("parity", "fsdp")]
    assert {run.kind for run in runs[2:]} == {"run"}
    assert len(runs) == 2 + 2 * len(specs)
