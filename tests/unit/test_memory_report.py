"""Memory of hand-made records: the fullest rank, its split beside the formula, and what an allocator wasted."""

from __future__ import annotations

from typing import Any

import pytest

from scalebench.analysis.memory import expected, fragmentation, largest, split
from scalebench.records.memory import MemoryFacts, MemorySplit
from scalebench.records.record import Record
from scalebench.records.theory import TheoryFacts
from scalebench.reporting.experiments import experiments
from scalebench.reporting.memory import categories, peaks
from scalebench.theory.activations import gpt_saved
from scalebench.theory.model import Model, Parameter
from scalebench.theory.scheme import Replicated, Scheme
from tests.unit.factory import make_record, make_spec

MIB = 2**20
MODEL = Model(parameters=(Parameter(shape=(512, 512)),))
SAVED = gpt_saved(num_layers=1, hidden_size=64, num_heads=1, vocab_size=64, context_length=64)


def facts(scale: int = 1, **changes: Any) -> MemoryFacts:
    held = MemorySplit(
        parameters=MIB, optimizer_state=2 * MIB, communication_buffers=3 * MIB, gradients=0, activations=5, other=7
    )
    known: dict[str, Any] = {
        "tensor_peak": scale * 9 * MIB,
        "split": held.model_copy(update={"activations": scale}),
        "parameters": MIB,
        "optimizer_state": 2 * MIB,
        "gradients": MIB,
    }
    return MemoryFacts(**(known | changes))


def holding(*ranks: MemoryFacts, **fields: Any) -> Record:
    record = make_record(make_spec(world_size=len(ranks), **fields))
    found = [rank.model_copy(update={"memory": held}) for rank, held in zip(record.ranks, ranks, strict=True)]
    scheme = Scheme(ranks=len(ranks), backend="gloo", sharding=Replicated())
    theory = TheoryFacts(model=MODEL, scheme=scheme, saved=SAVED)
    return record.model_copy(update={"ranks": found, "theory": theory})


def test_the_fullest_rank_speaks_for_the_run() -> None:
    record = holding(facts(1), facts(3), facts(2))
    assert largest(record, "tensor_peak") == 27 * MIB
    found = split(record)
    assert found is not None
    assert found.activations == 3


def test_a_rank_that_does_not_say_makes_it_unknown() -> None:
    record = holding(facts(), facts(split=None, tensor_peak=None))
    assert largest(record, "tensor_peak") is None
    assert split(record) is None


def test_the_formula_is_that_of_the_strategy_and_stands_in_brackets() -> None:
    record = holding(facts(), facts())
    said = expected(record)
    assert said is not None
    assert (said.parameters, said.optimizer_state, said.gradients) == (MIB, 2 * MIB, MIB)
    (experiment,) = experiments([record])
    shown = categories(experiment)
    assert shown is not None
    assert shown.frame["parameters"].tolist() == ["1.00 MiB (1.00 MiB)"]
    assert shown.frame["communication buffers"].tolist() == ["3.00 MiB (1.00 MiB)"]


def test_of_compiled_regions_no_activations_are_reckoned_and_that_is_said() -> None:
    record = holding(facts(split=None, tensor_peak=None), compile=True)
    said = expected(record)
    assert said is not None
    assert (said.activations, said.peak) == (None, None)
    (experiment,) = experiments([record])
    shown = categories(experiment)
    assert shown is not None
    assert "ompiled regions" in " ".join(shown.notes)
    assert "activations" not in shown.frame


def test_fragmentation_and_retries_are_those_of_the_worst_rank() -> None:
    record = holding(
        facts(allocated_peak=60, reserved_peak=100, allocation_retries=0),
        facts(allocated_peak=90, reserved_peak=100, allocation_retries=2),
    )
    assert fragmentation(record) == pytest.approx(0.4)
    (experiment,) = experiments([record])
    shown = peaks(experiment)
    assert shown is not None
    assert shown.frame["fragmentation"].tolist() == ["40.0%"]
    assert shown.frame["allocation retries"].tolist() == ["2"]


def test_on_a_cpu_there_is_no_allocator_to_speak_of() -> None:
    record = holding(facts())
    assert fragmentation(record) is None
    (experiment,) = experiments([record])
    shown = peaks(experiment)
    assert shown is not None
    assert "fragmentation" not in shown.frame
    assert "peak reserved" not in shown.frame
