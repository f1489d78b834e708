"""The script for GPUs, on the CPU: the same tasks with tiny models, from the first command to the verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scalebench.meters.communication import Trace
from scalebench.records.store import load_records
from tests.gpu.part import unfinished
from tests.gpu.plan import tasks
from tests.gpu.trace import STEPS, Summary, summarise, table
from tests.gpu.verdicts import show
from tests.processes import printed, python


def carry_out(part: str, out: Path) -> None:
    printed("-m", "tests.gpu", "--part", part, "--out", out, "--stand-in")
    assert (out / f"part-{part}.tar.gz").exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_cells_run_and_the_one_without_memory_is_followed_by_a_clean_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    carry_out("C", tmp_path)
    records = load_records(tmp_path / "part-C" / "results").records
    assert {record.status for record in records if record.spec.memory_limit_bytes} == {"oom"}
    assert [record.status for record in records if not record.spec.memory_limit_bytes] == ["ok"] * 4
    assert unfinished(tasks("C", stand_in=True), tmp_path / "part-C") == []
    assert show(tmp_path) == 3, "targets of a GPU are open"
    told = capsys.readouterr().out
    assert "met      a lack of memory is recorded as oom" in told
    assert "open     gpt 1.3b, bf16, compiled: MFU of at least 50%: not measured" in told


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a dozen interpreters one after another
def test_the_other_parts(tmp_path: Path) -> None:
    for part in ("A", "B"):
        carry_out(part, tmp_path)
    traced = json.loads((tmp_path / "part-B" / "traces.json").read_text())
    assert [one["strategy"] for one in traced] == ["single", "ddp", "fsdp"]
    assert all(one["step"] > one["computing"] > 0 for one in traced)
    told = python("-m", "tests.gpu", "--verdicts", tmp_path).stdout
    assert "met      what exceeds it is explained" in told


def test_a_step_is_what_computes_what_is_exposed_and_what_is_idle() -> None:
    """By hand: of 12 ms per step, 5 compute, a collective of 4 overlaps with 1 of these, and 4 nothing runs."""
    trace = Trace(
        collectives=[("all_reduce", (4_000.0 * STEPS, 8_000.0 * STEPS))],
        computing=[(0.0, 5_000.0 * STEPS), (1_000.0, 2_000.0)],
        span=(0.0, 12_000.0 * STEPS),
    )
    found = summarise("ddp", trace, [("gemm", 5_000.0 * STEPS)] * 2, {"cudaStreamSynchronize": STEPS})
    assert (found.step, found.computing, found.exposed, found.idle) == pytest.approx((12.0, 5.0, 3.0, 4.0))
    assert (found.synchronised, found.longest) == (1.0, {"gemm": 10.0})
    assert isinstance(found, Summary)
    assert "| ddp | 12.00 | 5.00 | 3.00 | 4.00 |" in table([found])


def test_wheels_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    done = python("-m", "tests.gpu", "--part", "A", "--wheels", tmp_path)
    assert done.returncode != 0
    assert "there is no wheel in" in done.stderr
    assert "Traceback" not in done.stderr
