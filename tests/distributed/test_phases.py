"""Phases of a step: time planted in one of them is found in it, under every kind of backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from scalebench.meters import phases
from scalebench.records.phases import PhaseFacts
from scalebench.strategies.base import Batch
from tests.distributed.ranks import run_ranks
from tests.distributed.toy import Toy
from tests.distributed.training import CPU, prepare, rank, toy_config

pytestmark = pytest.mark.distributed

STRATEGIES = ["ddp", "fsdp", "fsdp1", "deepspeed_stage_1", "deepspeed_stage_3"]
MICRO_BATCHES = 2
PLANTED = {"data": 5, "forward": 60, "backward": 700, "optimizer": 8000}
"""Nanoseconds that go by in each batch, forward, backward and update."""


class ScriptedClock:
    """A clock that goes on only when told to, so that what is found is known to the nanosecond."""

    kind: Literal["monotonic", "cuda-event"] = "monotonic"

    def __init__(self) -> None:
        self.now = 1000
        self._marks: list[int] = []

    def goes_on(self, phase: str) -> None:
        self.now += PLANTED[phase]

    def start(self) -> int:
        return self.now

    def mark(self) -> None:
        self._marks.append(self.now)

    def read_ns(self) -> list[int]:
        return self._marks


class TimedBackward(torch.autograd.Function):
    """Passes its input through; time goes by in the backward pass."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, clock: ScriptedClock) -> Tensor:
        ctx.clock = clock
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.clock.goes_on("backward")
        return gradients[0], None


@dataclass(frozen=True, kw_only=True)
class TimedToy(Toy):
    """The toy; time goes by in its forward and backward passes."""

    clock: ScriptedClock

    def build(self) -> nn.Module:
        module = super().build()
        forward = module.forward

        def timed(batch: Any) -> Tensor:
            self.clock.goes_on("forward")
            return TimedBackward.apply(forward(batch), self.clock)  # type: ignore[no-any-return, no-untyped-call]

        module.forward = timed  # type: ignore[method-assign]
        return module


def timed_batches(toy: TimedToy) -> Iterator[Sequence[Batch]]:
    for index in range(1000):
        toy.clock.goes_on("data")
        yield toy.share(index, rank(), MICRO_BATCHES)


def phases_of(names: Sequence[str]) -> dict[str, PhaseFacts]:
    """What was measured of each strategy; everything that was hooked in is gone afterwards."""
    found = {}
    for name in names:
        clock, before = ScriptedClock(), torch.autograd.backward
        toy = TimedToy(clock=clock)
        step = prepare(name, toy_config("sgd"), toy)
        step(toy.share(0, rank(), MICRO_BATCHES))
        step.optimizer.register_step_pre_hook(lambda *_, clock=clock: clock.goes_on("optimizer"))
        attributes, hooks = set(vars(step.module)), len(step.module._forward_hooks)
        with mock.patch.object(phases, "clock_for", lambda device, run_ahead, clock=clock: clock):
            facts = phases.measure_phases(step, timed_batches(toy), CPU, lambda: None)
        assert facts is not None, name
        assert torch.autograd.backward is before
        assert set(vars(step.module)) == attributes
        assert len(step.module._forward_hooks) == hooks
        found[name] = facts
        step.close()
    return found


def check(facts: PhaseFacts) -> None:
    steps = phases.PHASE_STEPS
    assert facts.data_ns == [PLANTED["data"]] * steps
    assert facts.forward_ns == [MICRO_BATCHES * PLANTED["forward"]] * steps
    assert facts.backward_ns == [MICRO_BATCHES * PLANTED["backward"]] * steps
    # ZeRO updates each of the two groups of parameters, those that decay and those that do not, by itself
    assert facts.optimizer_ns in ([PLANTED["optimizer"]] * steps, [2 * PLANTED["optimizer"]] * steps)
    each = zip(facts.data_ns, facts.forward_ns, facts.backward_ns, facts.optimizer_ns, strict=True)
    ends = [start + sum(durations) for start, durations in zip(facts.start_ns, each, strict=True)]
    assert ends[:-1] == facts.start_ns[1:], "the four are the whole step"


def test_time_that_goes_by_in_a_phase_is_found_in_it() -> None:
    for found in run_ranks(phases_of, 2, STRATEGIES):
        assert list(found) == STRATEGIES
        for facts in found.values():
            check(facts)


def test_without_wrapper_too() -> None:
    check(phases_of(["single"])["single"])


def test_a_backward_pass_that_goes_another_way_is_unknown() -> None:
    toy = Toy()
    step = prepare("single", toy_config("sgd"), toy)

    class Forwards:
        """A step without a backward pass."""

        module, optimizer = step.module, step.optimizer

        def __call__(self, micro_batches: Sequence[Batch]) -> Tensor:
            return torch.stack([self.module(batch) for batch in micro_batches]).mean()

    batches = (toy.share(index, 0, 2) for index in range(100))
    assert phases.measure_phases(Forwards(), batches, CPU, lambda: None) is None  # type: ignore[arg-type]
