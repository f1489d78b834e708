"""torch.compile under the torch strategies: one graph for all blocks, and no value changes. Slow on CPU."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from scalebench.strategies.config import TrainConfig
from tests.distributed.ranks import run_ranks
from tests.distributed.toy import Toy, Trace, train_plainly
from tests.distributed.training import CLIP_NORM, STEPS, assert_parity, prepare, toy_config, train

TOY = Toy(depth=10)  # more blocks than dynamo recompiles one function for
NAMES = ["ddp", "fsdp", "fsdp1"]
COMPILED_TOLERANCE = 2e-5
"""Fused kernels round in other places than one operator after the other does."""


def train_compiled(config: TrainConfig) -> dict[str, tuple[int, Trace]]:
    """Graphs compiled, and the trace, by strategy."""
    seen = {}
    for name in NAMES:
        torch._dynamo.reset()
        counters.clear()
        trace = train(name, config, TOY)[1]
        seen[name] = (counters["stats"]["unique_graphs"], trace)
        assert not counters["graph_break"]
    return seen


@pytest.mark.distributed
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_share_one_graph_and_train_like_plain_pytorch(checkpointing: bool) -> None:
    config = toy_config("sgd", compile=True, activation_checkpointing=checkpointing)
    start: dict[str, Tensor] = dict(prepare("single", toy_config("sgd"), TOY).full_parameters())
    reference = train_plainly(TOY, start, "sgd", STEPS, micro_batches=4, clip_norm=CLIP_NORM)
    ranks = run_ranks(train_compiled, 2, config)
    for name in NAMES:
        assert [each[name][0] for each in ranks] == [1, 1]
        assert_parity([each[name][1] for each in ranks], reference, start, COMPILED_TOLERANCE)
