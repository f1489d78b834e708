"""Evaluation and generation through every backend: what plain PyTorch gives with the same parameters, and no trace."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scalebench import strategies, workloads
from scalebench.strategies.base import TrainStep
from scalebench.strategies.config import TrainConfig
from tests.distributed.ranks import run_ranks
from tests.distributed.training import CPU, rank

FRAMEWORKS = ["lightning_ddp", "lightning_model_parallel", "accelerate_ddp"]
NAMES = ["ddp", "fsdp", "fsdp_shard_grad_op", "fsdp1", *(f"deepspeed_stage_{stage}" for stage in range(4))]
NAMES += [name for name in FRAMEWORKS if importlib.util.find_spec(name.partition("_")[0])]
SHAPE = {"num_layers": 2, "hidden_size": 32, "num_heads": 2, "context_length": 12, "vocab_size": 61}
PROMPT = 5
GPT = workloads.create("gpt", "tiny", SHAPE)


def batch(index: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(index)
    ids = torch.randint(SHAPE["vocab_size"], (3, SHAPE["context_length"] + 1), generator=generator)
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:]}


def prompts(index: int) -> dict[str, Tensor]:
    return {"tokens": batch(index)["tokens"][:, :PROMPT]}


def config(name: str) -> TrainConfig:
    return TrainConfig(micro_batch=3, grad_sync=strategies.default_grad_sync(name))


def prepared(name: str) -> TrainStep:
    return strategies.create(name).prepare(GPT, config(name), CPU)


def looked_at(names: list[str]) -> dict[str, dict[str, Any]]:
    """Of each strategy, after a step: its parameters, this rank's sums and continuation, and the next step's loss."""
    seen = {}
    for name in names:
        step = prepared(name)
        step([batch(rank())])
        parameters = dict(step.full_parameters())
        sums, continued = step.evaluate(batch(10 + rank())), step.generate(prompts(20 + rank()))
        training = step.module.training
        loss = step([batch(2 + rank())]).item()
        step.close()
        seen[name] = {
            "parameters": parameters,
            "sums": sums,
            "continued": continued,
            "training": training,
            "loss": loss,
        }
    return seen


def plain_model(parameters: dict[str, Tensor]) -> torch.nn.Module:
    model = GPT.build()
    model.load_state_dict({**parameters, "head.weight": parameters["embedding.tokens.weight"]})
    return model.eval()


def plain_greedy(model: torch.nn.Module, prompt: Tensor) -> Tensor:
    """The likeliest continuation, by the logits of ever longer sequences that hold nothing else."""
    tokens = prompt
    while tokens.size(1) < SHAPE["context_length"]:
        hidden = model.embedding(tokens)
        for block in model.blocks:
            hidden = block(hidden)
        logits = torch.nn.functional.linear(model.head.norm(hidden[:, -1]), model.head.weight)
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    return tokens


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, dict[str, Any]]]:
    pytest.importorskip("deepspeed")
    return run_ranks(looked_at, 2, NAMES)


@pytest.mark.distributed
@pytest.mark.parametrize("name", NAMES)
def test_sums_of_ranks_add_up_to_plain_pytorchs_metrics(name: str, ranks: list[dict[str, dict[str, Any]]]) -> None:
    model = plain_model(ranks[0][name]["parameters"])
    total = {key: sum(each[name]["sums"][key] for each in ranks) for key in ("loss_sum", "tokens")}
    assert all(value.dtype == torch.float32 for value in ranks[0][name]["sums"].values())
    with torch.no_grad():
        losses = [model(batch(10 + index)).item() for index in range(2)]
    loss = sum(losses) / 2
    assert total["tokens"].item() == 2 * 3 * SHAPE["context_length"]
    assert GPT.metrics(total) == pytest.approx({"loss": loss, "perplexity": math.exp(loss)}, rel=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("name", NAMES)
def test_each_rank_continues_its_own_prompts(name: str, ranks: list[dict[str, dict[str, Any]]]) -> None:
    model = plain_model(ranks[0][name]["parameters"])
    for index, each in enumerate(ranks):
        assert torch.equal(each[name]["continued"], plain_greedy(model, prompts(20 + index)["tokens"]))


@pytest.mark.distributed
@pytest.mark.parametrize("name", NAMES)
def test_looking_leaves_no_trace(name: str, ranks: list[dict[str, dict[str, Any]]]) -> None:
    step = strategies.create("single").prepare(GPT, TrainConfig(micro_batch=3, accumulation=2), CPU)
    step([batch(0), batch(1)])
    undisturbed = step([batch(2), batch(3)]).item()
    assert sum(each[name]["loss"] for each in ranks) / 2 == pytest.approx(undisturbed, rel=1e-6)
    assert all(each[name]["training"] for each in ranks)


def test_one_process_gives_the_same() -> None:
    step = prepared("single")
    model = plain_model(dict(step.full_parameters()))
    assert torch.equal(step.generate(prompts(1)), plain_greedy(model, prompts(1)["tokens"]))
    sums = step.evaluate(batch(1))
    assert GPT.metrics(sums)["loss"] == pytest.approx(model(batch(1)).item(), rel=1e-6)
    assert all(parameter.grad is None for parameter in step.module.parameters())
