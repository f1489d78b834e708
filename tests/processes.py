"""Fresh interpreters, for what a test has to see from outside: a command, a script, what an import brings along."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(
    *arguments: str | Path,
    inside: Sequence[str] = (),
    cwd: Path = ROOT,
    environment: Mapping[str, str] = os.environ,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """How `python arguments` ends, and what it prints, with this checkout to import from. One that hangs ends with its
    test, which may take so long and no longer (pytest-timeout).

    Args:
        inside: a command that runs what follows it.
        environment, variables: the latter come on top of the former.
    """
    return subprocess.run(
        [*inside, sys.executable, *arguments],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def scalebench(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, as a person types it in `cwd`."""
    return python("-m", "scalebench", *arguments, cwd=cwd, **variables)


def printed(
    *arguments: str | Path, cwd: Path = ROOT, environment: Mapping[str, str] = os.environ, **variables: str
) -> str:
    """What `python arguments` prints. Fails the test, with its errors, where it fails."""
    done = python(*arguments, cwd=cwd, environment=environment, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
