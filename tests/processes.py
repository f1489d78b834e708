"""Fresh interpreters, for what a test has to see from outside: a command, a script, what an import brings along."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 280.0
"""For what hangs: a little less than a test may take. However busy the machine is, nothing else must be given up."""


def python(
    *arguments: str | Path, cwd: Path = ROOT, environment: Mapping[str, str] = os.environ, **variables: str
) -> subprocess.CompletedProcess[str]:
    """How `python arguments` ends, and what it prints, with this checkout to import from and `variables` beside the
    `environment`."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def scalebench(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, as a person types it in `cwd`."""
    return python("-m", "scalebench", *arguments, cwd=cwd, **variables)


def printed(*arguments: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    """What `python arguments` prints. Fails the test, with its errors, where it fails."""
    done = python(*arguments, cwd=cwd, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
