"""Searches by real ranks under a memory limit that is really imposed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from scalebench.cli import main
from scalebench.errors import EXIT_INTERRUPTED
from scalebench.harness.runner import Session, execute
from scalebench.machine import detect
from scalebench.records.record import Record
from scalebench.records.store import load_records
from scalebench.search.driver import edge, largest_cell
from scalebench.search.question import Question, micro_batches
from scalebench.search.rule import Edge
from scalebench.search.trials import FIT, Trials
from scalebench.spec import PlannedRun, RunSpec
from tests.distributed.cells import cell
from tests.distributed.sweeps import Sweep
from tests.distributed.test_runner import Watcher
from tests.processes import printed

pytestmark = pytest.mark.distributed

MIB = 2**20
WIDE: dict[str, Any] = {"num_layers": 1, "hidden_size": 64, "vocab_size": 4096, "context_length": 512}
"""Each sample's logits take 8 MiB, and a step keeps several times that: far more than allocations vary by."""
LIMIT = 200 * MIB
ROOM = {"deepspeed_stage_2": 350 * MIB, "deepspeed_stage_3": 350 * MIB}
"""Buckets of their own."""
QUICK = WIDE | {"vocab_size": 2048, "context_length": 128}
"""1 MiB of logits each."""

SEARCHING = [
    *("run", "--strategy", "single", "--device", "cpu", "--precision", "fp32", "--data", "synthetic"),
    *(part for name, value in QUICK.items() for part in ("--set", f"workload.{name}={value}")),
    *("--micro-batch", "auto", "--memory-limit", "48MiB", "--warmup-steps", "2", "--repeats", "1"),
    *("--max-seconds", "0.3"),
]


def wide(strategy: str, ranks: int, **fields: Any) -> RunSpec:
    return cell(strategy, ranks, shape=WIDE, memory_limit_bytes=ROOM.get(strategy, LIMIT), **fields)


class Asked:
    """Trials of one session, and what they were told."""

    def __init__(self, spec: RunSpec, results: Path) -> None:
        session = Session(results, [PlannedRun(spec=spec)], detect("cpu"))
        self.told: list[Record] = []
        self.trials = Trials(session, results, self.told.append)

    def edge(self, question: Question) -> Edge:
        return edge(question, self.trials)


def endings(specs: list[RunSpec], results: Path) -> list[tuple[str, str | None]]:
    """How each of `specs` ends, and why, in a run of its own: nothing of the search is involved."""
    runs = [PlannedRun(spec=spec.model_copy(update=FIT)) for spec in specs]
    return [(record.status, record.reason) for record, _ in execute(runs, results=results, progress=Watcher())]


@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [
        ("ddp", 2),
        pytest.param("fsdp", 2, marks=pytest.mark.slow),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in ("single", "ddp", "fsdp")),
        *(
            pytest.param(name, ranks, marks=pytest.mark.slow)
            for name in ("fsdp1", "deepspeed_stage_0", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
            for ranks in (1, 2)
        ),
    ],
)
def test_at_the_edge_a_run_fits_and_one_sample_more_is_out_of_memory(strategy: str, ranks: int, tmp_path: Path) -> None:
    question = micro_batches(wide(strategy, ranks), samples=10_000)
    asked = Asked(question.smallest, tmp_path / "search")
    found = asked.edge(question)
    assert found.largest is not None
    assert found.refused == found.largest + 1
    assert {record.status for record in asked.told} == {"ok", "oom"}
    assert {record.kind for record in asked.told} == {"trial"}
    again = Asked(question.smallest, tmp_path / "search")
    assert again.edge(question) == found
    assert again.told == asked.told, "nothing is tried again"
    ended = endings([question.cell(found.largest), question.cell(found.refused)], tmp_path / "runs")
    assert [status for status, _ in ended] == ["ok", "oom"], ended


@pytest.mark.slow
def test_a_model_is_made_as_deep_as_fits(tmp_path: Path) -> None:
    broad = {"hidden_size": 512, "num_heads": 8}  # a block more takes 50 MiB
    spec = cell("single", 1, shape=broad, memory_limit_bytes=400 * MIB)
    asked = Asked(spec, tmp_path / "search")
    found = largest_cell(spec, asked.trials, set(broad))
    blocks = int(str(found.workload_options["num_layers"]))
    deeper = found.model_copy(update={"workload_options": found.workload_options | {"num_layers": blocks + 1}})
    assert found.size == "tiny"
    assert blocks > 2
    ended = endings([found, deeper], tmp_path / "runs")
    assert [status for status, _ in ended] == ["ok", "oom"], ended


def test_inside_a_rank_gets_what_its_limit_says_and_no_more_and_outside_it_does() -> None:
    script = f"""
import torch
from scalebench.harness.memory_limit import limited_memory
cpu = torch.device("cpu")
with limited_memory({64 * MIB}, cpu):
    kept = torch.empty({60 * MIB}, dtype=torch.uint8)
    try:
        torch.empty({8 * MIB}, dtype=torch.uint8)
    except RuntimeError as error:
        print(error)
torch.empty({8 * MIB}, dtype=torch.uint8)
"""
    assert str(8 * MIB) in printed("-c", script), "what was asked for is told"


def test_a_search_that_was_stopped_goes_on_and_names_the_largest_and_the_fastest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Sweep(tmp_path, command=[*SEARCHING, "--results", "results"]) as sweep:
        while not sweep.results.is_dir() or not sweep.records():
            time.sleep(0.01)
        sweep.pid(0)
        sweep.interrupt()
        assert sweep.wait() == EXIT_INTERRUPTED, sweep.errors()
        assert not sweep.left()
        before = sweep.records()
    assert {record.kind for record in before} == {"trial"}
    assert before[-1].status == "interrupted"
    made = [record.spec for record in before if record.status != "interrupted"]
    assert main.exit_code([*SEARCHING, "--resume", "--results", str(tmp_path / "results")]) == 0
    told = capsys.readouterr().out
    records = load_records(tmp_path / "results").records
    for spec in made:
        assert len([record for record in records if record.spec == spec]) == 1, "what was tried is not tried again"
    (measured,) = [record for record in records if record.kind == "run"]
    trials = [(record.spec.micro_batch, record.status) for record in records if record.trial]
    refused = {value for value, status in trials if status == "oom"}
    largest = max(value for value, _ in trials if value < min(refused))
    assert (measured.status, largest + 1 in refused) == ("ok", True)
    assert f"micro-batch {largest} is the largest that fits (micro-batch {largest + 1}: oom" in told
    assert f"; {measured.spec.micro_batch} is the fastest of" in told
