"""Searches around scripted trials: which cells are asked for, which is measured, and that a search ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scalebench.errors import UserError
from scalebench.machine import Machine
from scalebench.matrix import Request, RequestError, resolve, search_of
from scalebench.search.driver import carry_out, fastest_cell, largest_cell
from scalebench.search.question import Question, micro_batches
from scalebench.spec import RunSpec
from tests.unit.factory import make_spec

CPU = Machine(device="cpu", gpu_count=0, cores=2, bf16_native=False)


class Script:
    """Trials that end as they are told: `fits` of each cell, and `rate`, None for one that then ran out of memory."""

    def __init__(self, fits: Callable[[RunSpec], bool], rate: Callable[[RunSpec], float | None] = lambda spec: 1.0):
        self._fits, self._rate = fits, rate
        self.tried: list[int] = []
        self.refused: set[RunSpec] = set()

    def fits(self, question: Question, value: int) -> bool:
        self.tried.append(value)
        spec = question.cell(value)
        return spec not in self.refused and self._fits(spec)

    def throughput(self, question: Question, value: int) -> float | None:
        spec = question.cell(value)
        rate = self._rate(spec)
        if rate is None:
            self.refused.add(spec)
        return rate


def weak(**fields: Any) -> RunSpec:
    return make_spec(strategy="single", micro_batch=1, memory_limit_bytes=2**34, **fields)


def test_the_fastest_micro_batch_is_measured_not_the_largest() -> None:
    script: Any = Script(lambda spec: spec.micro_batch <= 23, lambda spec: {8: 3.0, 16: 2.0}.get(spec.micro_batch, 1.0))
    found = fastest_cell(weak(accumulation=2), script)
    assert (found.micro_batch, found.accumulation) == (8, 2)


def test_a_micro_batch_that_fits_a_few_steps_only_is_not_the_edge() -> None:
    script: Any = Script(lambda spec: spec.micro_batch <= 23, lambda spec: None if spec.micro_batch > 20 else 1.0)
    found = fastest_cell(weak(), script)
    assert {spec.micro_batch for spec in script.refused} == {23, 22, 21}
    assert found.micro_batch == 20


def test_where_nothing_fits_the_smallest_is_measured() -> None:
    script: Any = Script(lambda spec: False)
    assert fastest_cell(weak(), script).micro_batch == 1


def test_under_strong_scaling_micro_batches_divide_a_ranks_share_and_accumulation_follows() -> None:
    question = micro_batches(make_spec(world_size=2, scaling="strong", micro_batch=3, accumulation=4), samples=10**6)
    assert list(question.values) == [1, 2, 3, 4, 6, 12]
    assert {question.cell(value).global_batch for value in question.values} == {24}


def test_under_weak_scaling_the_data_must_fill_a_step() -> None:
    question = micro_batches(make_spec(world_size=2, accumulation=3, micro_batch=1), samples=100)
    assert list(question.values) == list(range(1, 17))


def test_each_strategy_stands_at_its_own_best_beside_the_matched_cells() -> None:
    asked = {"strategy": "ddp,fsdp", "batch": "best", "global_batch": "16", "micro_batch": "2", "memory_limit": "1TiB"}
    request = Request.model_validate(asked)
    matched = resolve(request, CPU)

    def rate(spec: RunSpec) -> float:
        fast = spec.activation_checkpointing if spec.strategy == "fsdp" else not spec.activation_checkpointing
        return spec.micro_batch * (2.0 if fast else 1.0)

    script: Any = Script(lambda spec: spec.micro_batch <= 4, rate)
    specs = carry_out("batch", matched, request, script)
    assert specs[: len(matched)] == matched
    best = {(s.strategy, s.micro_batch, s.accumulation, s.activation_checkpointing) for s in specs[len(matched) :]}
    assert best == {("single", 4, 4, False), ("ddp", 4, 2, False), ("fsdp", 4, 2, True)}
    assert {spec.global_batch for spec in specs} == {16}


def parameters(spec: RunSpec) -> int:
    options: Any = spec.workload_options
    return int(options["num_layers"]) * 12 * int(options["hidden_size"]) ** 2


def test_the_largest_size_is_the_deepest_of_the_width_of_the_largest_named_one() -> None:
    limit = 4_000_000_000  # between 2.7b, of 32 blocks of width 2560, and 7b
    script: Any = Script(lambda spec: parameters(spec) <= limit)
    found = largest_cell(weak(), script, {})
    assert found.size == "2.7b"
    assert parameters(found) <= limit < parameters(found) + 12 * 2560**2


def test_a_depth_that_was_asked_is_kept() -> None:
    script: Any = Script(lambda spec: parameters(spec) <= 4_000_000_000)
    found = largest_cell(weak(workload_options={"num_layers": 8}), script, {"num_layers"})
    assert found.workload_options["num_layers"] == 8
    assert found.size == "13b"


@pytest.mark.parametrize(
    ("asked", "key", "words"),
    [
        ({"micro_batch": "4,auto"}, "micro_batch", "stands alone"),
        ({"size": "tiny,max"}, "size", "stands alone"),
        ({"micro_batch": "auto", "size": "max"}, "size", "one thing"),
        ({"size": "max", "batch": "best"}, "batch", "one thing"),
        ({"batch": "best", "scaling": "weak"}, "batch", "--scaling strong"),
        ({"micro_batch": "auto", "scaling": "strong"}, "micro_batch", "--global-batch"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_what_to_do(asked: dict[str, str], key: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        search_of(Request.model_validate(asked))
    assert caught.value.key == (key,)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("asked", "search", "micro_batch", "size"),
    [
        ({"micro_batch": "auto"}, "micro_batch", 1, "tiny"),
        ({"micro_batch": "auto", "global_batch": "8"}, "micro_batch", 1, "tiny"),
        ({"size": "max"}, "size", 1, "tiny"),
        ({"size": "max", "micro_batch": "2"}, "size", 2, "tiny"),
        ({"micro_batch": "8"}, None, 8, "tiny"),
    ],
)
def test_a_search_begins_at_the_smallest(
    asked: dict[str, str], search: str | None, micro_batch: int, size: str
) -> None:
    request = Request.model_validate({"strategy": "ddp", "gpus": "2"} | asked)
    assert search_of(request) == search
    assert {(spec.micro_batch, spec.size) for spec in resolve(request, CPU)} == {(micro_batch, size)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512MiB", 512 * 2**20), ("24GB", 24 * 10**9), ("1.5GiB", 3 * 2**29), ("4096", 4096), ("1 KiB", 1024)],
)
def test_a_memory_limit_is_read_with_its_unit(text: str, expected: int) -> None:
    assert Request.model_validate({"memory_limit": text}).memory_limit == (expected,)


@pytest.mark.parametrize("text", ["0", "-1GiB", "2 gigs", "GiB", "1e9999", "nan", "1iB"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected bytes"):
        Request.model_validate({"memory_limit": text})
