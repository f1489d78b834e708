"""`--debug` on a real run: what the ranks have in their environment, what is kept, what the record says of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from scalebench.records.environment import DEBUG_VARIABLES
from tests.processes import ROOT

pytestmark = pytest.mark.distributed


def run(results: Path, *flags: str, **variables: str) -> tuple[dict[int, dict[str, str]], dict[str, object]]:
    """The environments of all processes below a run of two ranks, and its record."""
    environment = {name: value for name, value in os.environ.items() if name not in DEBUG_VARIABLES} | variables
    command = [
        *(sys.executable, "-m", "scalebench", "run", "--strategy", "ddp", "--gpus", "2", "--device", "cpu"),
        *("--no-baseline", "--repeats", "1", "--warmup-steps", "1", "--steps", "10", "--data", "synthetic"),
        *("--results", str(results), "--json", *flags),
    ]
    below: dict[int, dict[str, str]] = {}
    with tempfile.TemporaryFile("w+") as output:  # a pipe that nobody empties would be full some day
        process = subprocess.Popen(command, stdout=output, text=True, cwd=ROOT, env=environment)
        while process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it has just ended
                    below[child.pid] = child.environ()
            time.sleep(0.05)
        assert process.returncode == 0
        output.seek(0)
        return below, json.load(output)


def test_debug_reaches_the_ranks_keeps_their_logs_and_marks_the_record(tmp_path: Path) -> None:
    below, record = run(tmp_path, "--debug")
    pids = [rank["pid"] for rank in record["ranks"]]  # type: ignore[attr-defined]
    assert len(pids) == 2
    for pid in pids:
        assert {name: below[pid][name] for name in DEBUG_VARIABLES} == DEBUG_VARIABLES
    assert (record["status"], record["comparable"]) == ("ok", False)
    assert record["not_comparable_because"][0] == "--debug was given"  # type: ignore[index]
    logs = {path.name for path in tmp_path.glob("*/logs/*/*")}
    assert {"rank0-stderr.log", "rank1-stderr.log"} <= logs


@pytest.mark.slow
def test_variables_that_were_set_before_mark_the_record_too(tmp_path: Path) -> None:
    _, record = run(tmp_path, NCCL_DEBUG="INFO", CUDA_LAUNCH_BLOCKING="1")
    assert record["comparable"] is False
    assert record["not_comparable_because"] == ["NCCL_DEBUG=INFO was set", "CUDA_LAUNCH_BLOCKING=1 was set"]
