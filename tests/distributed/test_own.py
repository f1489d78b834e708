"""Models as their authors write them, under strategies by one command each; loops of one's own, recorded."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import scalebench
from scalebench.adapters.lightning_data import once_per_node
from scalebench.records.record import Record
from tests.distributed.ranks import run_ranks
from tests.processes import ROOT, printed

pytestmark = pytest.mark.distributed

STRATEGIES = ("ddp", "fsdp", "deepspeed_stage_3")
EXACT = {"steps": 4, "warmup_steps": 2, "target_precision": None, "max_seconds": None}


def command(*arguments: str) -> list[dict[str, Any]]:
    """The records that a `scalebench` command prints, run as a person would."""
    told = printed("-m", "scalebench", *arguments, "--device", "cpu", "--gpus", "2", "--json")
    return [json.loads(line) for line in told.splitlines()]


@pytest.mark.slow
def test_a_plain_module_runs_under_each_strategy(tmp_path: Path) -> None:
    workload = "tests/examples/plain.py:make"
    length = ("--steps", "3", "--warmup-steps", "2", "--repeats", "1", "--no-baseline", "--set", "workload.width=16")
    found = command(
        "run", "--workload", workload, "--strategy", ",".join(STRATEGIES), *length, "--results", str(tmp_path)
    )
    assert {record["spec"]["strategy"] for record in found} == set(STRATEGIES)
    for record in found:
        assert record["spec"]["workload_options"] == {"width": 16, "depth": 3, "dropout": 0.1}
        assert record["workload"]["data_samples"] == 256
        # what the run's observer counted on a rank's 8 samples is what was counted before launch
        assert record["contract"]["flops_per_step"] == 8 * record["workload"]["flops_per_sample"]


@pytest.mark.slow
def test_a_transformers_model_runs_under_each_strategy(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    arguments = ("--steps", "2", "--warmup-steps", "1", "--repeats", "1", "--no-baseline", "--no-diagnostics")
    options = ("--set", "workload.context_length=16", "--strategy", ",".join(STRATEGIES), "--results", str(tmp_path))
    found = command("run", "--workload", "tests/examples/hugging.py:small_gpt2", *arguments, *options)
    assert {record["spec"]["strategy"]: record["workload"]["item"] for record in found} == dict.fromkeys(
        STRATEGIES, "token"
    )


def test_a_lightning_module_trains_as_plain_pytorch_does(tmp_path: Path) -> None:
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("lightning is not installed")
    found = command(
        "parity", "--workload", "tests/examples/lit.py:LitRegression+SumsData", "--strategy", ",".join(STRATEGIES),
        "--results", str(tmp_path), "--precision", "fp32",
    )  # fmt: skip
    assert {record["spec"]["strategy"]: record["parity"]["passed"] for record in found} == dict.fromkeys(
        STRATEGIES, True
    )


class Downloads:
    """A DataModule's prepare_data, which takes a while."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare_data(self) -> None:
        time.sleep(0.2)
        (self.folder / os.environ["RANK"]).touch()


def prepared(folder: Path) -> list[str]:
    """The ranks that have prepared data when this one goes on."""
    once_per_node([Downloads(folder)])
    return sorted(path.name for path in folder.iterdir())


def test_one_rank_of_a_node_prepares_data_and_the_others_wait(tmp_path: Path) -> None:
    assert run_ranks(prepared, 2, tmp_path) == [["0"], ["0"]]


def recorded(folder: Path) -> int:
    """A DDP loop on this rank with a Recorder; how many steps it made."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = scalebench.Recorder(model, optimizer, micro_batch=8, results=folder, **EXACT)
    steps = 0
    while not recorder.done:
        loss = model(torch.ones(8, 4) * dist.get_rank()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(loss)
        steps += 1
    return steps


def test_a_loop_on_two_ranks_is_one_record(tmp_path: Path) -> None:
    assert run_ranks(recorded, 2, tmp_path) == [2 + 2 + 4] * 2
    [path] = tmp_path.rglob("*.json")
    record = Record.model_validate_json(path.read_text())
    assert [rank.rank for rank in record.ranks] == [0, 1]
    assert record.spec.world_size == 2
    assert [len(rank.step_end_ns) for rank in record.ranks] == [8, 8]
    assert record.ranks[0].losses != record.ranks[1].losses  # each its own
    assert record.ranks[0].chunks[0].start_ns < min(rank.step_end_ns[0] for rank in record.ranks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "ranks", "named"),
    [("script", 2, "script"), ("trainer_lightning", 1, "lightning_trainer"),
     ("trainer_transformers", 1, "transformers_trainer")],
)  # fmt: skip
def test_scripts_with_two_more_lines_are_recorded(tmp_path: Path, script: str, ranks: int, named: str) -> None:
    package = script.removeprefix("trainer_")
    if package != script and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if ranks > 1 else []
    printed(*launcher, f"{script}.py", tmp_path, cwd=ROOT / "tests" / "examples", DS_ACCELERATOR="cpu")
    [path] = tmp_path.rglob("*-run0.json")
    record = Record.model_validate_json(path.read_text())
    assert (record.status, record.spec.strategy, record.spec.world_size) == ("ok", named, ranks)
    assert (record.spec.accumulation, record.spec.optimizer.name) == (2, "adamw")
    assert len(record.ranks[0].step_end_ns) == 5 + 2 + 20
