"""The workflow that gates this project, its steps carried out as they stand there, in a clone with a base beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
LINE = "        assert len(micro_batches) == self._accumulation"
WORKFLOW = (ROOT / ".github" / "workflows" / "scalebench.yml").read_text()


def script(job: str, step: str) -> str:
    """The shell lines of a step."""
    after = WORKFLOW.partition(f"\n  {job}:")[2].partition(f"- name: {step}")[2]
    said = re.match(r"[^\n]*\n +run: (?:\|\n((?: {10}.*\n)+)|(.*))", after)
    assert said
    return re.sub(r"^ {10}", "", said[1], flags=re.MULTILINE) if said[1] else said[2]


def carry_out(folder: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=800,
    )


@pytest.mark.parametrize(("regression", "code"), [("", 0), ("time.sleep(0.1)", 1)])
def test_a_change_is_held_against_its_base(tmp_path: Path, regression: str, code: int) -> None:
    """Equal ones pass, and longer steps fail; the table is where the comment and the summary take it from."""
    change, commands, summary = tmp_path / "change", tmp_path / "bin", tmp_path / "summary.md"
    subprocess.run(["git", "clone", "-q", ROOT, change], check=True)
    step = change / "scalebench" / "strategies" / "torch_step.py"
    assert LINE in step.read_text()
    step.write_text(step.read_text().replace(LINE, f"        import time; {regression or 'pass'}\n{LINE}"))
    commands.mkdir()
    (commands / "scalebench").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m scalebench "$@"\n')
    (commands / "scalebench").chmod(0o755)
    told = {"BASE": "HEAD", "GITHUB_STEP_SUMMARY": str(summary), "PATH": f"{commands}:{os.environ['PATH']}"}
    carry_out(change, script("cpu", "The base beside it"), **told).check_returncode()
    fewer = script("cpu", "Compare").replace("--pairs 10,20", "--pairs 6")
    found = carry_out(change, fewer, PYTHONPATH=str(change), **told)
    assert found.returncode == code, found
    table = (change / "results" / "ci" / "comparison.md").read_text()
    assert table == summary.read_text()
    assert [name for name in ("ddp", "fsdp") if f"{name}, 2 ranks, fp32" in table] == ["ddp", "fsdp"]
    assert ("slower" in table.splitlines()[0]) == bool(code)
