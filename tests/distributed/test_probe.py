"""A real probe: what torch itself says was sent, and the command from end to end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner
from torch.profiler import ProfilerActivity, profile

from scalebench.cli.probe import probe
from scalebench.meters.probe_collectives import BUILDERS
from scalebench.meters.probe_device import measure_copies, product
from scalebench.meters.repeats import Repeats
from scalebench.records.probe import Collective, Probe
from scalebench.records.store import load_records
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed

ELEMENTS = 64
C10D: dict[Collective, str] = {
    "all_reduce": "c10d::allreduce_",
    "all_gather": "c10d::_allgather_base_",
    "reduce_scatter": "c10d::_reduce_scatter_base_",
    "broadcast": "c10d::broadcast_",
    "reduce": "c10d::reduce_",
    "all_to_all": "c10d::alltoall_base_",
    "ring": "c10d::send",
}


def sent(kind: Collective) -> tuple[list[str], int]:
    """The operations of c10d and gloo that torch's profiler saw, and the most elements that any of them was given."""
    operation = BUILDERS[kind](ELEMENTS, torch.device("cpu"))
    dist.barrier()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        operation()
    events = [event for event in seen.events() or [] if event.name.startswith(("c10d::", "gloo:"))]
    return [event.name for event in events], max(shape[0] for event in events for shape in event.input_shapes if shape)


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_each_collective_is_what_it_is_called_and_as_large(kind: Collective) -> None:
    for names, largest in run_ranks(sent, 2, kind):
        assert C10D[kind] in names
        assert largest == ELEMENTS, "payload is the larger of what a rank gives and what it gets"


def times_of_unequal_ranks() -> tuple[int, int]:
    """How often each rank ran an operation that takes longer on rank 1, timed five times, and the returned repeats."""
    calls, matrix = 0, torch.ones(200 * (1 + dist.get_rank()), 200)

    def operation() -> None:
        nonlocal calls
        calls += 1
        torch.mm(matrix, matrix.T)

    found = Repeats(device=torch.device("cpu")).time(operation, 0.005, repeats=5)
    return calls, len(found)


def test_ranks_agree_how_often() -> None:
    (first, repeats), (second, _) = run_ranks(times_of_unequal_ranks, 2)
    assert first == second, "or a collective would wait for ever"
    assert repeats == 5


def time_after_the_deadline() -> list[str | None]:
    late = Repeats(device=torch.device("cpu"), deadline_ns=1 if dist.get_rank() else 2**62)
    return [late.reason_to_stop(), Repeats(device=torch.device("cpu")).reason_to_stop(9.0 * dist.get_rank())]


def test_ranks_agree_when_to_stop() -> None:
    first, second = run_ranks(time_after_the_deadline, 2)
    assert first == second == ["time was up", "one could take longer than 0.5 s"]


def test_copies_and_products_are_what_they_say() -> None:
    cpu = torch.device("cpu")
    found = list(measure_copies(Repeats(device=cpu), sizes=(4096,)))
    assert Counter((facts.direction, facts.pinned) for facts in found) == Counter(
        [(way, pinned) for way in ("to_device", "from_device") for pinned in (True, False)]
    )
    run = product(32, torch.bfloat16, cpu)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as flops:
        result = run()
    assert flops.get_total_flops() == 2 * 32**3
    assert isinstance(result, torch.Tensor)
    assert result.dtype == torch.bfloat16


def test_the_command_measures_records_and_shows(tmp_path: Path) -> None:
    done = CliRunner().invoke(probe, ["--gpus", "1,2", "--max-seconds", "2", "--json", "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    loaded = load_records(tmp_path)
    shown = [Probe.model_validate(json.loads(line)) for line in done.stdout.splitlines()]
    assert sorted(loaded.probes, key=lambda p: p.spec.world_size) == shown
    alone, pair = shown
    assert not alone.facts.collectives
    assert {facts.kind for facts in pair.facts.collectives} <= {"barrier", *BUILDERS}
    assert pair.facts.collectives, "a barrier at least"
    for facts in (*pair.facts.memory, *pair.facts.matmul, *pair.facts.collectives):
        assert [len(repeats) for repeats in facts.seconds] == [7, 7]
        assert all(seconds > 0 for repeats in facts.seconds for seconds in repeats)
    assert pair.facts.left_out, "two seconds are not enough for everything, and what is missing is said"
