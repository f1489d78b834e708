"""Nothing outlives the process that launches: neither ranks nor temporary folders, however that process ends.

A shell keeps watch in a session of its own. Its standard input ends when the launching process does; then it kills the
process groups of the ranks that are left (one that is stopped dies too) and removes the folder. The fork server goes
by itself once it has no clients.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path

from scalebench.errors import UserError

KEEPER = """
while read -r _; do :; done
mv -- "$0" "$0.gone"
for file in "$0.gone"/*/pid-*; do
    [ -e "$file" ] && kill -s KILL -- "-$(cat "$file")"
done
rm -rf -- "$0.gone"
"""
"""The folder is moved first: a rank that announces itself has either been seen by then, or finds no place to do so."""
LONGEST_BASE = 32
"""Characters of a path under which sockets of multiprocessing, whose own may have 107, find their place."""
KEEPER_SECONDS = 5
AFTER_MULTIPROCESSING = -200
"""As an exit priority: its own temporary folder, which is in ours, goes at -100."""


@functools.cache
def root() -> Path:
    """The folder of what this process leaves on disk while it lives."""
    usual = tempfile.gettempdir()
    return kept_folder(usual if len(usual) <= LONGEST_BASE else "/tmp")


@functools.cache
def kept_folder(base: str) -> Path:
    """A folder in `base` that goes with this process; its keeper is told."""
    folder = new_folder(base, prefix="scalebench-")
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", KEEPER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C and a closing terminal reach the launcher, not its keeper
    )
    Finalize(None, _dismiss, args=[keeper], exitpriority=AFTER_MULTIPROCESSING)
    return folder


def new_folder(base: str | Path, prefix: str = "") -> Path:
    """A folder of a name of its own in `base`. Raises UserError where none can be made."""
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    except OSError as error:
        raise UserError(
            f"no temporary folder can be made in '{base}': {error.strerror}. Make room there, or use another: "
            "export TMPDIR=/a/short/path"
        ) from error


def _dismiss(keeper: subprocess.Popen[bytes]) -> None:
    assert keeper.stdin is not None
    keeper.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        keeper.wait(KEEPER_SECONDS)


@contextlib.contextmanager
def temporary_files_inside() -> Iterator[None]:
    """While inside, this process's temporary files go to its root, which also keeps multiprocessing's socket there."""
    before, tempfile.tempdir = tempfile.tempdir, str(root())
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def private_folder(base: str | None = None) -> Iterator[Path]:
    """A folder of one launch alone, gone afterwards; in `base`, if that is given."""
    folder = new_folder(kept_folder(base) if base else root())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def announce(folder: Path, rank: int) -> None:
    """Make this process the head of a group of its own and tell the keeper of it.

    Raises FileNotFoundError when the launcher has ended and its keeper has been here: this process has to end too.
    """
    os.setsid()
    unfinished = folder / f"announcing-{rank}"
    unfinished.write_text(str(os.getpid()))
    unfinished.rename(folder / f"pid-{rank}")
