"""The torch strategies against a plain PyTorch loop, on real ranks: losses, gradient norms and parameters."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.flop_counter import FlopCounterMode

from scalebench.strategies import construct
from scalebench.strategies.base import Workload
from scalebench.strategies.config import GradSync, OptimizerName, TrainConfig
from scalebench.strategies.construct import build_on_meta
from scalebench.strategies.fsdp import FSDP
from tests.distributed.collectives import CountCollectives
from tests.distributed.ranks import RankError, run_ranks
from tests.distributed.toy import Toy, Trace, train_plainly
from tests.distributed.training import (
    CLIP_NORM,
    FP32_TOLERANCE,
    STEPS,
    assert_parity,
    distance,
    evaluated_loss,
    prepare,
    rank,
    same_bits,
    toy_config,
    train,
)

TOY = Toy()
REPLICATED = ["ddp", "ddp_find_unused_parameters_true", "ddp_static_graph"]
SHARDED = ["fsdp", "fsdp_shard_grad_op", "fsdp_hybrid", "fsdp_cpu_offload", "fsdp1"]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ddp": [{"gradient_as_bucket_view": True, "bucket_cap_mb": 0.001}],
    "fsdp": [{"prefetch": 2}, {"reshard_after_forward": 2}, {"shard_size": 2, "reshard_after_forward": False}],
    "fsdp1": [{"sharding_strategy": "SHARD_GRAD_OP", "forward_prefetch": True}],
}

Trained = dict[str, tuple[dict[str, Tensor], Trace]]


@pytest.fixture(scope="module")
def start() -> dict[str, Tensor]:
    return dict(prepare("single", toy_config("sgd"), TOY).full_parameters())


def train_all(names: list[str], config: TrainConfig) -> Trained:
    return {name: train(name, config, TOY) for name in names}


def train_options(config: TrainConfig) -> Trained:
    return {f"{name} {o}": train(name, config, TOY, o) for name, several in OPTIONS.items() for o in several}


def assert_all_parity(ranks: list[Trained], reference: Trace, start: dict[str, Tensor]) -> None:
    for name in ranks[0]:
        assert all(same_bits(each[name][0], start) for each in ranks), f"{name} starts elsewhere"
        assert_parity([each[name][1] for each in ranks], reference, start, FP32_TOLERANCE)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_single_trains_like_plain_pytorch(optimizer: OptimizerName, start: dict[str, Tensor]) -> None:
    _, trace = train("single", toy_config(optimizer, accumulation=4), TOY)
    reference = train_plainly(TOY, start, optimizer, STEPS, micro_batches=4, clip_norm=CLIP_NORM)
    assert max(reference.norms) > CLIP_NORM > min(reference.norms)
    assert_parity([trace], reference, start, FP32_TOLERANCE)


@pytest.mark.distributed
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("grad_sync", ["last", "every_micro_batch"])
def test_two_ranks_train_like_plain_pytorch(
    optimizer: OptimizerName, grad_sync: GradSync, start: dict[str, Tensor]
) -> None:
    ranks = run_ranks(train_all, 2, REPLICATED + SHARDED, toy_config(optimizer, grad_sync=grad_sync))
    reference = train_plainly(TOY, start, optimizer, STEPS, micro_batches=4, clip_norm=CLIP_NORM)
    assert_all_parity(ranks, reference, start)


@pytest.mark.slow
@pytest.mark.distributed
def test_four_ranks_and_options_train_like_plain_pytorch(start: dict[str, Tensor]) -> None:
    reference = train_plainly(TOY, start, "sgd", STEPS, micro_batches=8, clip_norm=CLIP_NORM)
    ranks = run_ranks(train_all, 4, ["ddp", "fsdp", "fsdp_hybrid", "fsdp1"], toy_config("sgd"))
    assert_all_parity(ranks, reference, start)
    assert_all_parity(run_ranks(train_options, 4, toy_config("sgd")), reference, start)


@pytest.mark.distributed
def test_one_rank_trains_like_plain_pytorch(start: dict[str, Tensor]) -> None:
    reference = train_plainly(TOY, start, "adamw", STEPS, micro_batches=2, clip_norm=CLIP_NORM)
    assert_all_parity(run_ranks(train_all, 1, ["ddp", "fsdp", "fsdp1"], toy_config("adamw")), reference, start)


def test_the_norm_is_recorded_without_clipping_when_asked(start: dict[str, Tensor]) -> None:
    config = toy_config("sgd", clip_norm=None)
    assert prepare("single", config, TOY).grad_norm() is None
    _, trace = train("single", toy_config("sgd", clip_norm=None, record_grad_norm=True), TOY)
    reference = train_plainly(TOY, start, "sgd", STEPS, micro_batches=2)
    assert_parity([trace], reference, start, FP32_TOLERANCE)


def count_collectives(names: list[str], config: TrainConfig) -> dict[str, tuple[Counter[str], Counter[str]]]:
    """Collectives while preparing, and in one later step, by strategy."""
    counted = {}
    for name in names:
        with CountCollectives() as preparing:
            step = prepare(name, config, TOY)
        step(TOY.share(0, rank(), config.accumulation))
        with CountCollectives() as stepping:
            step(TOY.share(1, rank(), config.accumulation))
        counted[name] = (preparing.counts, stepping.counts)
    return counted


@pytest.mark.distributed
@pytest.mark.parametrize("grad_sync", ["last", "every_micro_batch"])
def test_gradients_cross_ranks_as_often_as_asked(grad_sync: GradSync) -> None:
    accumulation = 3
    units = TOY.depth + 1  # the blocks and the root
    synced = accumulation if grad_sync == "every_micro_batch" else 1
    config = toy_config("sgd", grad_sync=grad_sync, accumulation=accumulation)
    counted = run_ranks(count_collectives, 2, ["ddp", "ddp_static_graph", *SHARDED], config)[0]
    assert all(not counted[name][0] for name in SHARDED), "start values are drawn, not sent"
    for name, (_, counts) in counted.items():
        if name in REPLICATED:
            assert counts["allreduce"] == synced
        elif name == "fsdp_hybrid":  # at two ranks: two replicas of one rank each
            assert counts["allreduce"] == synced * units
        else:
            assert counts["reduce_scatter_base"] == synced * units
    # Blocks are gathered for forward and backward, the root once; keeping them gathered saves the second time.
    assert counted["fsdp"][1]["allgather_base"] == accumulation * (2 * TOY.depth + 1)
    assert counted["fsdp_shard_grad_op"][1]["allgather_base"] == accumulation * units
    assert counted["fsdp1"][1]["allgather"] == accumulation * (2 * TOY.depth + 1)


@dataclass(frozen=True, kw_only=True)
class WatchedToy(Toy):
    """Notes how many parameter elements the process holds whenever a start value is drawn."""

    depth: int = 12

    def init_parameter_(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        super().init_parameter_(name, tensor, generator)
        HELD_ELEMENTS.append(_held_elements())


HELD_ELEMENTS: list[int] = []


def _held_elements() -> int:
    gc.collect()
    found = (thing for thing in gc.get_objects() if type(thing) in (Tensor, torch.nn.Parameter))
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in found if t.device.type == "cpu"}
    return sum(storages.values()) // 4


def most_held_while_preparing(name: str) -> tuple[int, int]:
    """The most elements held at once while preparing, and the elements held after it."""
    gc.freeze()  # what exists by now is neither counted nor searched again and again
    step = prepare(name, toy_config("sgd"), WatchedToy())
    peak, after = max(HELD_ELEMENTS), _held_elements()
    step.close()
    return peak, after


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["fsdp", "fsdp_hybrid", "fsdp1"])
def test_no_rank_ever_holds_the_whole_model(name: str) -> None:
    whole = sum(parameter.numel() for parameter in WatchedToy().build().parameters())
    block = sum(parameter.numel() for parameter in WatchedToy().build().get_submodule("blocks.0").parameters())
    held = run_ranks(most_held_while_preparing, 4, name)
    assert sum(after for _, after in held) >= whole * (2 if name == "fsdp_hybrid" else 1)
    for peak, after in held:
        assert peak <= after + 2 * block < whole


def flops_of_a_step(names: list[str], config: TrainConfig) -> dict[str, int]:
    flops = {}
    for name in names:
        step = prepare(name, config, TOY)
        with FlopCounterMode(display=False) as counter:
            step(TOY.share(0, rank(), config.accumulation))
        flops[name] = counter.get_total_flops()
    return flops


@pytest.mark.distributed
def test_checkpointing_recomputes_each_block() -> None:
    names = ["ddp", "fsdp", "fsdp1"]
    usual = run_ranks(flops_of_a_step, 2, names, toy_config("sgd"))[0]
    recomputing = run_ranks(flops_of_a_step, 2, names, toy_config("sgd", activation_checkpointing=True))[0]
    tokens = 2 * TOY.micro_batch(0, 0)["input"].numel()
    # Of a block's two products only the first is needed again: nothing is saved from the second one's result.
    again = TOY.depth * 2 * tokens * TOY.width * 3 * TOY.width
    assert {name: recomputing[name] - usual[name] for name in names} == dict.fromkeys(names, again)


@pytest.mark.distributed
def test_checkpointing_changes_no_value(start: dict[str, Tensor]) -> None:
    reference = train_plainly(TOY, start, "adamw", STEPS, micro_batches=4, clip_norm=CLIP_NORM)
    config = toy_config("adamw", activation_checkpointing=True)
    assert_all_parity(run_ranks(train_all, 2, ["ddp", "fsdp", "fsdp1"], config), reference, start)


def evaluate_between_steps(names: list[str], config: TrainConfig) -> dict[str, list[float]]:
    """Step losses with an evaluation and a look at the parameters after each, then the evaluations."""
    seen = {}
    for name in names:
        step = prepare(name, config, TOY)
        losses, evaluations = [], []
        for index in range(3):
            losses.append(step(TOY.share(index, rank(), 2)).item())
            evaluations.append(evaluated_loss(step, TOY.micro_batch(99, 0)))
            list(step.full_parameters())
        seen[name] = losses + evaluations
    return seen


@pytest.mark.distributed
def test_evaluation_between_steps_is_right_and_leaves_no_trace(start: dict[str, Tensor]) -> None:
    names = ["ddp", "fsdp", "fsdp_shard_grad_op", "fsdp1"]
    ranks = run_ranks(evaluate_between_steps, 2, names, toy_config("adamw"))
    model = TOY.build()
    for name in names:
        mean = [(a + b) / 2 for a, b in zip(ranks[0][name], ranks[1][name], strict=True)]
        for steps in (1, 2, 3):
            plain = train_plainly(TOY, start, "adamw", steps, micro_batches=4, clip_norm=CLIP_NORM)
            model.load_state_dict(
                {**plain.parameters, "head.weight": plain.parameters["embedding.weight"]}, strict=False
            )
            model.get_buffer("order").copy_(torch.arange(TOY.length - 1, -1, -1))
            assert mean[steps - 1] == pytest.approx(plain.losses[-1], rel=FP32_TOLERANCE)
            assert mean[2 + steps] == pytest.approx(model(TOY.micro_batch(99, 0)).item(), rel=FP32_TOLERANCE)


def losses_on_one_batch(name: str, config: TrainConfig, toy: Toy) -> list[float]:
    step = prepare(name, config, toy)
    return [step([toy.micro_batch(0, 0)]).item() for _ in range(2)]


@pytest.mark.distributed
def test_dropout_differs_between_ranks_and_not_between_runs() -> None:
    toy = Toy(dropout=0.5)
    config = toy_config("sgd", accumulation=1)
    first, again = (run_ranks(losses_on_one_batch, 2, "fsdp", config, toy) for _ in range(2))
    assert first == again
    assert first[0][0] != pytest.approx(first[1][0], rel=1e-3)
    assert first[0][0] == pytest.approx(losses_on_one_batch("single", config, toy)[0], rel=FP32_TOLERANCE)


def learning_rate_zero(names: list[str]) -> bool:
    """Whether nothing moves once the learning rate is 0."""
    still = []
    for name in names:
        step = prepare(name, toy_config("sgd"), TOY)
        step.set_learning_rate(0.0)
        before = dict(step.full_parameters())
        step(TOY.share(0, rank(), 2))
        still.append(same_bits(before, dict(step.full_parameters())))
        step.set_learning_rate(0.1)
        step(TOY.share(0, rank(), 2))
        still.append(not same_bits(before, dict(step.full_parameters())))
        step.close()
    return all(still)


@pytest.mark.distributed
def test_the_learning_rate_can_be_set() -> None:
    assert all(run_ranks(learning_rate_zero, 2, ["ddp", "fsdp", "fsdp1"]))


@pytest.mark.distributed
def test_unused_parameters_need_ddp_to_look_for_them() -> None:
    toy, config = Toy(unused_parameter=True), toy_config("sgd")
    found = run_ranks(train, 2, "ddp_find_unused_parameters_true", config, toy)
    reference = run_ranks(train, 2, "fsdp", config, toy)
    assert found[0][1].losses == pytest.approx(reference[0][1].losses, rel=FP32_TOLERANCE)
    with pytest.raises(RankError, match="find_unused_parameters"):
        run_ranks(train, 2, "ddp", config, toy)


@pytest.mark.distributed
@pytest.mark.parametrize(("compression", "tolerance"), [("fp16", 1e-3), ("powersgd", 0.1)])
def test_compressed_gradients_train_nearly_the_same(
    compression: str, tolerance: float, start: dict[str, Tensor]
) -> None:
    ranks = run_ranks(train, 2, "ddp", toy_config("sgd"), TOY, {"gradient_compression": compression})
    reference = train_plainly(TOY, start, "sgd", STEPS, micro_batches=4, clip_norm=CLIP_NORM)
    losses = [(a + b) / 2 for a, b in zip(ranks[0][1].losses, ranks[1][1].losses, strict=True)]
    assert losses == pytest.approx(reference.losses, rel=tolerance)
    moved = distance(start, reference.parameters)
    assert distance(ranks[0][1].parameters, reference.parameters) > FP32_TOLERANCE * moved, "nothing was compressed"


def homes_of_offloaded() -> tuple[set[str], set[str]]:
    """Device types of parameters and of buffers where the model computes on `meta`, which stands for a GPU."""
    module = build_on_meta(TOY, TrainConfig())
    mesh = init_device_mesh("cpu", (1,))
    FSDP(cpu_offload=True).shard(module, TOY.block_names(module), TrainConfig(), mesh)

    def drawn(workload: Workload, name: str, like: Tensor, seed: int, device: torch.device) -> Tensor:
        return torch.zeros(like.shape, dtype=like.dtype)

    with mock.patch.object(construct, "initial_value", drawn):
        construct.materialise_(module, TOY, TrainConfig(), torch.device("meta"), offload=True)
    parameters = {parameter.device.type for parameter in module.parameters()}
    return parameters, {buffer.device.type for buffer in module.buffers()}


@pytest.mark.distributed
def test_only_what_is_sharded_is_offloaded() -> None:
    """Buffers are computed with on the GPU, and nobody brings them there."""
    assert run_ranks(homes_of_offloaded, 1) == [({"cpu"}, {"meta"})]
