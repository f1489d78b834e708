"""Each target's verdict on records whose figures are known by hand, and on nothing at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from scalebench.records.memory import MemorySplit
from scalebench.records.record import Record
from scalebench.spec import RunSpec
from tests.gpu.part import Note
from tests.gpu.plan import cells, spec_of
from tests.gpu.verdicts import NOT_MEASURED, ONE_GPU, Evidence, verdicts
from tests.unit.factory import make_record

SPLIT = {
    "parameters": 40,
    "optimizer_state": 30,
    "communication_buffers": 0,
    "gradients": 20,
    "activations": 5,
    "other": 4,
}


def spec(strategy: str = "single", **fields: Any) -> RunSpec:
    given = {
        "workload": "gpt",
        "size": "1.3b",
        "data": "synthetic",
        "device": "cuda",
        "world_size": 1,
        "micro_batch": 8,
    }
    return RunSpec(**(given | {"strategy": strategy, "precision": "bf16"} | fields))


def said(evidence: Evidence, target: str) -> tuple[str, bool | None]:
    (found,) = [verdict for verdict in verdicts(evidence) if target in verdict.target]
    return found.measured, found.met


def test_of_nothing_every_target_says_so_and_none_is_met() -> None:
    found = verdicts(Evidence())
    assert {(verdict.measured, verdict.met) for verdict in found} == {(NOT_MEASURED, None)}
    assert len({verdict.target for verdict in found}) == len(found)


def blocks(strategy: str, seconds: list[float]) -> list[Record]:
    cell = spec(strategy, diagnostics=False)
    return [make_record(cell, value, repeat=repeat, session="s") for repeat, value in enumerate(seconds)]


@pytest.mark.parametrize(("shift", "met"), [(1.01, True), (1.06, False)])
def test_the_overhead_is_the_mean_ratio_of_pairs_of_a_block(shift: float, met: bool) -> None:
    single = [0.25, 0.26, 0.24, 0.25]
    wrapped = [value * shift * (1 + 0.001 * index) for index, value in enumerate(single)]
    evidence = Evidence(records=[*blocks("single", single), *blocks("ddp", wrapped)])
    logs = np.log(np.array(wrapped) / np.array(single))
    low, high = np.exp(stats.t.interval(0.9, 3, logs.mean(), stats.sem(logs)))
    told, verdict = said(evidence, "ddp at one rank")
    assert f"[{low - 1:+.1%}, {high - 1:+.1%}] of 250 ms, 4 blocks" in told
    assert verdict is met
    assert said(evidence, "fsdp at one rank") == (NOT_MEASURED, None)


def test_short_steps_and_a_single_block_leave_the_overhead_open() -> None:
    short = Evidence(records=[*blocks("single", [0.1, 0.1]), *blocks("ddp", [0.1, 0.1001])])
    assert said(short, "ddp at one rank")[1] is None
    one = Evidence(records=[*blocks("single", [0.25]), *blocks("ddp", [0.25])])
    assert said(one, "ddp at one rank") == ("+0.0%, one block and so no interval", None)


def with_memory(allocated: int) -> Record:
    record = make_record(spec(), memory={"allocated_peak": allocated, "tensor_peak": sum(SPLIT.values())})
    facts = record.ranks[0].memory.model_copy(update={"split": MemorySplit(**SPLIT)})
    rank = record.ranks[0].model_copy(update={"memory": facts})
    return record.model_copy(update={"ranks": [rank]})


@pytest.mark.parametrize(("allocated", "met"), [(100, True), (99, True), (110, False)])
def test_memory_adds_up_when_categories_come_within_two_percent(allocated: int, met: bool) -> None:
    told, verdict = said(Evidence(records=[with_memory(99), with_memory(allocated)]), "categories sum")
    assert verdict is met
    assert told.startswith("2 of 2" if met else "1 of 2")


def test_what_ran_out_of_memory_must_say_so_and_be_followed_by_a_clean_run() -> None:
    refused = make_record(spec(memory_limit_bytes=1000), status="oom")
    ended = {"after-oom": Note(name="after-oom", code=0, seconds=1.0)}
    assert said(Evidence(records=[refused], notes=ended), "lack of memory")[1] is True
    failed = make_record(spec(memory_limit_bytes=1000), status="failed")
    assert said(Evidence(records=[failed], notes=ended), "lack of memory")[1] is False
    assert said(Evidence(records=[refused]), "lack of memory") == (NOT_MEASURED, None)


def test_cells_that_failed_are_counted_and_unsupported_ones_are_no_failure() -> None:
    planned = [spec_of(cell, ONE_GPU) for cell in cells()]
    first, *others = [
        make_record(cell, status="unsupported" if "deepspeed" in cell.strategy else "ok") for cell in planned
    ]
    told, met = said(Evidence(records=[first, *others]), "every cell runs")
    refused = sum("deepspeed" in cell.strategy for cell in planned)
    assert set(told.split(", ")) == {f"{len(planned) - refused} ok", f"{refused} unsupported"}
    assert met is True
    assert said(Evidence(records=[first]), "every cell runs") == (
        f"1 ok; {len(others)} of {len(planned)} cells not yet",
        None,
    )
    failed = make_record(planned[0], status="failed")
    assert said(Evidence(records=[failed, *others]), "every cell runs")[1] is False


def test_tests_are_counted_from_their_report_and_skipped_ones_prove_nothing(tmp_path: Path) -> None:
    def report(**counts: int) -> Evidence:
        attributes = " ".join(f'{name}="{count}"' for name, count in counts.items())
        (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite {attributes}/></testsuites>")
        return Evidence(files={"tests.xml": tmp_path / "tests.xml"})

    target = "tests that need a GPU"
    assert said(report(tests=9, failures=0, errors=0, skipped=1), target) == ("8 of 8 passed, 1 skipped", True)
    assert said(report(tests=9, failures=1, errors=1, skipped=0), target) == ("7 of 9 passed, 0 skipped", False)
    assert said(report(tests=9, failures=0, errors=0, skipped=9), target)[1] is False


def test_nanogpt_is_beaten_by_the_fastest_micro_batch_of_either(tmp_path: Path) -> None:
    ours = make_record(spec(size="124m", compile=True), 0.1)
    told, met = said(Evidence(records=[ours]), "nanoGPT's")
    assert met is None
    assert "nanoGPT not measured" in told
    (tmp_path / "peer.json").write_text(json.dumps({"16": 1.0, "32": 1e12}))
    assert said(Evidence(records=[ours], files={"peer.json": tmp_path / "peer.json"}), "nanoGPT's")[1] is False
