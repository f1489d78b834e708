"""What a step costs with another batch, on a clock that the step itself moves."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from scalebench.meters import batch_effect as meter
from scalebench.meters.batch_effect import measure_batch_effect, resized
from scalebench.strategies.base import Batch
from tests.unit.factory import make_spec

CPU = torch.device("cpu")
FIXED, PER_SAMPLE = 700, 50


class Step:
    """Moves the clock by a fixed time and some for each sample; the first step of each size takes longer."""

    def __init__(self) -> None:
        self.now = 0
        self.sizes: list[int] = []

    def __call__(self, micro_batches: Sequence[Batch]) -> None:
        size = sum(len(batch["tokens"]) for batch in micro_batches)
        self.now += FIXED + PER_SAMPLE * size + (0 if size in self.sizes else 10_000)
        self.sizes.append(size)


def batches(samples: int, count: int = 1) -> list[Batch]:
    return [{"tokens": torch.arange(samples * 3).reshape(samples, 3), "noise": torch.ones(samples)}] * count


def measured(monkeypatch: pytest.MonkeyPatch, samples: int, count: int = 1, **fields: object) -> tuple[Step, object]:
    step = Step()
    monkeypatch.setattr(meter, "time", SimpleNamespace(thread_time_ns=lambda: step.now))
    spec = make_spec(micro_batch=samples, accumulation=count, **fields)
    return step, measure_batch_effect(step, batches(samples, count), spec, CPU, 1000)  # type: ignore[arg-type]


@pytest.mark.parametrize(("samples", "other", "count"), [(8, 4, 1), (5, 2, 1), (4, 2, 3), (1, 2, 1)])
def test_half_the_batch_or_twice_a_single_sample(
    monkeypatch: pytest.MonkeyPatch, samples: int, other: int, count: int
) -> None:
    step, found = measured(monkeypatch, samples, count)
    assert step.sizes == [samples * count, other * count] * 4, "in turn, so that a drift falls on both"
    assert found.other_micro_batch == other
    assert found.own_ns == [FIXED + PER_SAMPLE * samples * count] * 3
    assert found.other_ns == [FIXED + PER_SAMPLE * other * count] * 3


def test_a_model_that_takes_no_other_batch() -> None:
    def stubborn(micro_batches: Sequence[Batch]) -> None:
        if len(micro_batches[0]["tokens"]) != 4:
            raise ValueError("four, please")

    found = measure_batch_effect(stubborn, batches(4), make_spec(micro_batch=4), CPU, 1000)  # type: ignore[arg-type]
    assert (found.own_ns, found.unknown_because) == ([], "ValueError: four, please")


def test_a_batch_is_cut_or_repeated() -> None:
    (batch,) = batches(3)
    assert resized(batch, 2)["tokens"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert resized(batches(1)[0], 2)["tokens"].tolist() == [[0, 1, 2]] * 2


def test_what_had_better_not_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    step, found = measured(monkeypatch, 4, compile=True)
    assert (step.sizes, found.own_ns) == ([], [])
    assert "compiled" in found.unknown_because
    monkeypatch.setattr(meter, "free_memory", lambda device: 999)
    step, found = measured(monkeypatch, 1)
    assert step.sizes == []
    assert "memory" in found.unknown_because
    _, halved = measured(monkeypatch, 2)
    assert halved.unknown_because is None, "less needs no room"
