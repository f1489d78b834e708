"""What DeepSpeed's engine does beyond the right numbers: what it sends, recomputes, compiles, prints, leaves behind."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from scalebench.strategies import compat, deepspeed_build
from scalebench.strategies.deepspeed import DeepSpeed
from tests.distributed.ranks import run_ranks
from tests.distributed.test_deepspeed import (
    STAGES,
    TOY,
    Cell,
    allow_fp16,
    cell,
    needs_deepspeed,
    norm_of,
    prepared,
    share,
)
from tests.distributed.toy import Toy, ToyModel
from tests.distributed.training import CPU, same_bits

pytestmark = needs_deepspeed


class Traffic(TorchDispatchMode):
    """Elements that each kind of collective carries, at the level of c10d."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            name = func._schema.name.removeprefix("c10d::").strip("_").removesuffix("_base")
            self.elements[name] += max(tensor.numel() for tensor in tensors)
        return func(*args, **(kwargs or {}))


DEEP = Toy(depth=8)
"""Deep enough that what happens around the middle of the step, where backward turns back, does not decide."""


def traffic(cells: list[Cell]) -> list[dict[str, float]]:
    """Per cell, what one step sends, by kind of collective, in multiples of the number of parameters."""
    carried = []
    for one in cells:
        with prepared(one, DEEP) as step:
            count = sum(value.numel() for _, value in step.full_parameters())
            for index in range(2):  # ZeRO-3 learns in the first step what to fetch ahead
                step(share(one, index, DEEP))
            with Traffic() as seen:
                step(share(one, 2, DEEP))
            carried.append({name: elements / count for name, elements in seen.elements.items()})
    return carried


SHARDED = {"allgather": 4.0, "reduce_scatter": 2.0}
TRAFFIC = [
    (cell("deepspeed_stage_0"), {"allreduce": 1.0}),
    (cell("deepspeed_stage_1"), {"allreduce": 1.0, "allgather": 1.0}),
    (cell("deepspeed_stage_1", precision="bf16"), {"allreduce": 1.0, "allgather": 1.0}),
    (cell("deepspeed_stage_2"), {"allreduce": 2.0, "allgather": 1.0}),
    (cell("deepspeed_stage_2", grad_sync="last"), {"allreduce": 1.0, "allgather": 1.0}),
    (cell("deepspeed_stage_3"), SHARDED),
    (cell("deepspeed_stage_3", grad_sync="last"), SHARDED | {"reduce_scatter": 1.0}),
    (cell("deepspeed_stage_3", profile="backend-default"), SHARDED | {"allgather": 1.0}),
]
"""Two micro-batches per step; a matched ZeRO-3 gathers for forward and for backward, as fully_shard does."""


def test_what_a_step_sends_is_what_the_stage_and_the_rule_say() -> None:
    cells = [one for one, _ in TRAFFIC]
    for (one, expected), carried in zip(TRAFFIC, run_ranks(traffic, 2, cells)[0], strict=True):
        told = {name: carried.get(name, 0.0) for name in ("allreduce", "allgather", "reduce_scatter")}
        wanted = {name: expected.get(name, 0.0) for name in told}
        assert told == pytest.approx(wanted, rel=0.06, abs=0.02), one


def recomputed(cells: list[Cell]) -> list[int]:
    """FLOPs of one step of each cell."""
    counted = []
    for one in cells:
        with prepared(one) as step, FlopCounterMode(display=False) as flops:
            step(share(one, 0))
        counted.append(flops.get_total_flops())
    return counted


def test_checkpointing_recomputes_at_every_stage() -> None:
    kept = [cell(f"deepspeed_stage_{stage}") for stage in STAGES]
    dropped = [cell(f"deepspeed_stage_{stage}", activation_checkpointing=True) for stage in STAGES]
    flops = run_ranks(recomputed, 2, kept + dropped)[0]
    assert len(set(flops[:4])) == 1
    # One more pass through the blocks: 2 FLOPs a weight and token. Stages 0 to 2 stop early, before the last product.
    tokens, weights = 2 * 3 * TOY.length, TOY.depth * 2 * 3 * TOY.width**2
    whole = 2 * tokens * weights
    assert [after - before for before, after in zip(flops[:4], flops[4:], strict=True)] == [whole / 2] * 3 + [whole]


class Buffered(Toy):
    """With a table of numbers that no 16-bit type holds."""

    def build(self) -> nn.Module:
        model = super().build()
        model.register_buffer("table", torch.empty(3))
        return model

    def init_parameter_(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        if name == "table":
            tensor.fill_(1 / 3)
        else:
            super().init_parameter_(name, tensor, generator)


def tables(cells: list[Cell]) -> list[Tensor]:
    """The table under each cell after a step."""
    found, toy = [], Buffered()
    for one in cells:
        with prepared(one, toy) as step:
            step(share(one, 0, toy))
            found += [value for name, value in step.module.named_buffers() if name.endswith("table")]
    return found


def test_buffers_keep_fp32_at_every_stage() -> None:
    cells = [cell(f"deepspeed_stage_{stage}", precision="bf16") for stage in STAGES]
    for found in run_ranks(tables, 2, cells):
        assert [table.dtype for table in found] == [torch.float32] * len(STAGES)
        assert all(torch.equal(table, torch.full((3,), 1 / 3)) for table in found)


@dataclass(frozen=True, kw_only=True)
class WholeToy(Toy):
    """The toy with its tied embedding and head compiled too."""

    def compiled_names(self, module: nn.Module) -> list[str]:
        return ["embedding", *self.block_names(module), "head"]


WHOLE = WholeToy(depth=2)


def compiled(cells: list[Cell]) -> list[tuple[int, int, list[float]]]:
    """Per cell: graphs compiled, breaks in them, and losses and norms of two steps."""
    outcomes = []
    for one in cells:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        with prepared(one, WHOLE) as step:
            figures = []
            for index in range(2):
                figures += [step(share(one, index, WHOLE)).item(), norm_of(step)]
        counters = torch._dynamo.utils.counters
        outcomes.append((counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()), figures))
    return outcomes


@pytest.mark.slow
def test_compiling_acts_at_every_kind_of_stage_and_changes_nothing() -> None:
    eager = cell("deepspeed_stage_2")
    acting = [
        cell("deepspeed_stage_0", compile=True),
        cell("deepspeed_stage_2", compile=True),
        cell("deepspeed_stage_3", compile=True),
        cell("deepspeed_stage_3", compile=True, activation_checkpointing=True),
    ]
    (_, _, plain), *outcomes = run_ranks(compiled, 2, [eager, *acting])[0]
    for graphs, breaks, figures in outcomes:
        assert (graphs, breaks) == (3, 0), "embedding, block and head, each in one piece"
        assert figures == pytest.approx(plain, rel=1e-5)


class LoudModel(ToyModel):
    def forward(self, batch: Mapping[str, Tensor], task: str = "loss") -> Any:
        return super().forward(batch, task) * 1e3


@dataclass(frozen=True, kw_only=True)
class LoudToy(Toy):
    """Its gradients overflow fp16 under the first loss scale."""

    def build(self) -> nn.Module:
        return LoudModel(self)


LOUD = LoudToy()


def overflow(cells: list[Cell]) -> list[tuple[int, bool, bool]]:
    """Per cell: steps skipped, whether the first one left the parameters alone, whether later ones moved them."""
    allow_fp16()
    outcomes = []
    for one in cells:
        with prepared(one, LOUD) as step:
            start = dict(step.full_parameters())
            step(share(one, 0, LOUD))
            stayed = same_bits(start, dict(step.full_parameters()))
            for index in range(1, 12):
                step(share(one, index, LOUD))
            outcomes.append((step.skipped_steps(), stayed, not same_bits(start, dict(step.full_parameters()))))
    return outcomes


def test_overflowing_steps_are_skipped_and_counted() -> None:
    cells = [cell(f"deepspeed_stage_{stage}", "sgd", precision="fp16") for stage in STAGES]
    for skipped, stayed, moved in run_ranks(overflow, 2, cells)[0]:
        assert 0 < skipped < 12
        assert stayed
        assert moved


def learning_rates(cells: list[Cell]) -> list[bool]:
    """Per cell: whether a learning rate of 0 stops the training, and another one lets it go on."""
    obeyed = []
    for one in cells:
        with prepared(one) as step:
            step(share(one, 0))
            before = dict(step.full_parameters())
            step.set_learning_rate(0.0)
            step(share(one, 1))
            stopped = same_bits(before, dict(step.full_parameters()))
            step.set_learning_rate(0.1)
            step(share(one, 2))
            obeyed.append(stopped and not same_bits(before, dict(step.full_parameters())))
    return obeyed


def test_the_learning_rate_is_the_one_set() -> None:
    assert all(run_ranks(learning_rates, 2, [cell(f"deepspeed_stage_{stage}", "sgd") for stage in STAGES])[0])


def whole_parameters_while_filling(one: Cell) -> list[int]:
    """Elements of the model that are whole on this rank, each time the next parameter is drawn."""
    whole: list[int] = []
    fill, draw = deepspeed_build._partition_, deepspeed_build.initial_value

    def watched(deepspeed: Any, module: nn.Module, *rest: Any) -> None:
        def counted(*arguments: Any) -> Tensor:
            whole.append(sum(p.numel() for p in module.parameters()))
            return draw(*arguments)

        deepspeed_build.initial_value = counted
        fill(deepspeed, module, *rest)
        deepspeed_build.initial_value = draw

    deepspeed_build._partition_ = watched
    with prepared(one):
        return whole


def test_stage_3_never_holds_the_model_whole() -> None:
    for whole in run_ranks(whole_parameters_while_filling, 2, cell("deepspeed_stage_3")):
        assert len(whole) > 10
        assert set(whole) == {0}


def wrong_engines(one: Cell) -> list[str]:
    """What is said when the engine is another than the plan's."""
    said = []
    with prepared(one) as step:
        plan = DeepSpeed(stage=2).plan(one.training, dist.get_world_size())
        deepspeed_build.verify(step.module, step.optimizer, plan)
        other = dataclasses.replace(one.training, precision="bf16", micro_batch=5)
        sgd = torch.optim.SGD([torch.zeros(1)])
        for wrong, optimizer in (
            (dataclasses.replace(plan, stage=3), step.optimizer),
            (dataclasses.replace(plan, offload=True), step.optimizer),
            (dataclasses.replace(plan, config=other), step.optimizer),
            (plan, sgd),
        ):
            with pytest.raises(RuntimeError) as caught:
                deepspeed_build.verify(step.module, optimizer, wrong)
            said.append(str(caught.value))
    return said


def test_an_engine_that_is_not_what_was_asked_is_an_error() -> None:
    stage, offload, precision, optimizer = run_ranks(wrong_engines, 2, cell("deepspeed_stage_2"))[0]
    assert "ZeRO stage: asked 3, got 2" in stage
    assert "offload: asked True, got False" in offload
    assert "parameter dtype: asked torch.bfloat16, got torch.float32" in precision
    assert "micro-batch: asked 5, got 3" in precision
    assert "optimizer: asked SGD, got AdamW" in optimizer


@contextmanager
def standard_output(path: Path) -> Iterator[None]:
    """Everything written to file descriptor 1, by whatever means, goes to `path`."""
    sys.stdout.flush()
    kept = os.dup(1)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)


def left_behind(folder: Path) -> tuple[str, list[str], set[str]]:
    """Standard output, extensions built and modules imported over a short training at every stage."""
    mine = folder / str(dist.get_rank())
    mine.mkdir()
    os.environ["TORCH_EXTENSIONS_DIR"] = str(mine / "extensions")
    with standard_output(mine / "out"):
        for stage in STAGES:
            one = cell(f"deepspeed_stage_{stage}", precision="bf16")
            with prepared(one) as step:
                step(share(one, 0))
    built = [str(path) for path in mine.rglob("*.so")] + [str(path) for path in mine.glob("extensions/*")]
    return (mine / "out").read_text(), built, {"mpi4py"} & set(sys.modules)


def test_nothing_is_printed_built_or_asked_of_mpi() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for printed, built, imported in run_ranks(left_behind, 2, Path(folder)):
            assert (printed, built, imported) == ("", [], set())


def group_timeouts(one: Cell) -> tuple[float, float]:
    """The time-out of the group that DeepSpeed uses, and seconds asked for."""
    with prepared(one):
        from deepspeed.utils import groups

        options = groups._get_data_parallel_group()._get_backend(CPU).options
        return options._timeout.total_seconds(), one.training.timeout_seconds


def test_collectives_time_out_when_the_run_says() -> None:
    for seconds, asked in run_ranks(group_timeouts, 2, cell("deepspeed_stage_1", timeout_seconds=77.0)):
        assert seconds == asked == 77.0


def parsed(_: None) -> list[str]:
    """What DeepSpeed's own parser says against the JSON of every stage, precision and profile."""
    deepspeed = compat.load_deepspeed(CPU)
    refused = []
    for stage in STAGES:
        for precision in ("fp32", "bf16", "fp16", "bf16-true"):
            for profile in ("matched", "backend-default"):
                for offload in (False, True):
                    training = cell(f"deepspeed_stage_{stage}", precision=precision, profile=profile).training
                    plan = DeepSpeed(stage=stage, offload=offload).plan(training, 1)
                    try:
                        deepspeed.DeepSpeedConfig(plan.json)
                    except Exception as error:
                        refused.append(f"{plan}: {error}")
    return refused


def test_deepspeed_takes_every_json_that_we_build() -> None:
    refused = run_ranks(parsed, 1, None)[0]
    assert all("stage=0" in plan and "true" in plan for plan in refused), refused
