"""A timed window runs the very operators of its steps and no others: no collective, nothing that waits for a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from scalebench.harness.loop import kept, run_steps
from scalebench.harness.phase import Phase, Pulse
from scalebench.harness.placement import Place
from scalebench.harness.window import Meters
from scalebench.meters.clock import HostClock
from scalebench.meters.device import Sampler
from scalebench.strategies.base import Batch, TrainStep
from tests.distributed.ranks import run_ranks
from tests.distributed.toy import Toy
from tests.distributed.training import CPU, prepare, rank, toy_config

STRATEGIES = ["ddp", "fsdp", "deepspeed_stage_2"]
STEPS = 4
READ_NUMBER = "aten._local_scalar_dense.default"
WAITING = [
    (torch.cuda, "synchronize"),
    (torch.cuda.Stream, "synchronize"),
    (torch.cuda.Event, "synchronize"),
    (dist, "barrier"),
    (dist, "all_reduce"),
    (dist, "broadcast_object_list"),
    (dist, "all_gather_object"),
]
"""What makes a host wait for its device or for other ranks, by the names that the harness could call it by."""


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operator of torch, those of collectives (c10d) and of reading a value (item) among them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def counted(run: Callable[[], object]) -> Counter[str]:
    """The operators of `run`, and its calls of what waits."""
    calls: Counter[str] = Counter()
    with ExitStack() as stack:
        for owner, name in WAITING:
            stack.enter_context(mock.patch.object(owner, name, noting(getattr(owner, name), calls, name)))
        operators = stack.enter_context(Operators())
        run()
    return operators.counts + calls


def noting(original: Callable[..., Any], calls: Counter[str], name: str) -> Callable[..., Any]:
    """`original`, each call of which is counted."""

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return original(*args, **kwargs)

    return noted


def with_and_without(names: Sequence[str]) -> list[tuple[Counter[str], Counter[str]]]:
    """Per strategy what some steps ran in a window with all meters and in a bare loop."""
    toy, found = Toy(), []
    for name in names:
        step = prepare(name, toy_config("adamw"), toy)
        batches = (toy.share(index, rank(), 2) for index in range(1000))
        bare(step, batches)
        found.append((counted(partial(window, step, batches)), counted(partial(bare, step, batches))))
        step.close()
    return found


def bare(step: TrainStep, batches: Iterator[Sequence[Batch]]) -> None:
    for _ in range(STEPS):
        step(next(batches))
        step.grad_norm()


def window(step: TrainStep, batches: Iterator[Sequence[Batch]]) -> None:
    place = Place(rank=rank(), local_rank=rank(), world_size=2, device=CPU)
    meters = Meters(place=place, phase=Phase(Pulse(place.world_size), place.rank))
    with Sampler(read_by="rank", gpus=True):
        run_steps(step, batches, STEPS, HostClock(), ready=meters.open)
        meters.close()


@pytest.mark.distributed
def test_a_window_runs_its_steps_operators_and_no_others() -> None:
    """But for each step's loss and norm, which on a CPU are read as numbers: that waits for nothing there."""
    for found in run_ranks(with_and_without, 2, STRATEGIES):
        assert len(found) == len(STRATEGIES)
        for inside, outside in found:
            inside.subtract({READ_NUMBER: 2 * STEPS})
            assert inside == outside
            assert any(name.startswith("c10d") for name in outside), "the strategies' own collectives are seen"


def test_on_a_device_that_would_have_to_be_waited_for_no_number_is_read() -> None:
    scalar = torch.empty((), device="meta")
    assert kept(scalar) is scalar


def waiting() -> None:
    torch.ones(2).sum().item()
    torch.cuda.synchronize()


def test_what_waits_would_be_seen() -> None:
    with mock.patch.object(torch.cuda, "synchronize"):
        seen = counted(waiting)
    assert (seen[READ_NUMBER], seen["synchronize"]) == (1, 1)
