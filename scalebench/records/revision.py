"""Records as they are, or as they were in a revision of a git repository: `REV:PATH`."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

from scalebench.errors import UserError
from scalebench.records.store import LoadResult, load_records

GIT_SECONDS = 120


def load_side(given: str) -> LoadResult:
    """The records of a file, of a folder, or of `REV:PATH` in the repository that the command runs in.

    Raises UserError where there is no such thing, or no readable record in it.
    """
    path = Path(given)
    found = load_records(path) if path.exists() or ":" not in given else _of_revision(given)
    if found.records:
        return found
    if found.damaged:
        file, reason = found.damaged[0]
        more = f" (and {len(found.damaged) - 1} more files)" if len(found.damaged) > 1 else ""
        raise UserError(f"'{given}' holds no readable record: {file.name}: {reason}{more}.")
    raise UserError(f"'{given}' holds no records. Measure first: scalebench run --results DIR")


def _of_revision(given: str) -> LoadResult:
    """Raises UserError in one sentence when git has no such thing."""
    kind = _git("cat-file", "-t", given, about=given).decode().strip()
    with tempfile.TemporaryDirectory(prefix="scalebench-revision-") as folder:
        if kind == "tree":
            archive = _git("archive", "--format=tar", given, about=given)
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(folder, filter="data")
        else:
            (Path(folder) / "record.json").write_bytes(_git("cat-file", "blob", given, about=given))
        return load_records(Path(folder))


def _git(*arguments: str, about: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, timeout=GIT_SECONDS)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UserError(f"'{about}' does not exist, and git cannot be asked for it: {error}.") from error
    if done.returncode == 0:
        return done.stdout
    revision, _, path = about.partition(":")
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if said and "not a git repository" in said[0]:
        told = "the current folder is in no git repository"
    else:
        told = f"git has no '{path}' in the revision '{revision}' (paths start at the repository's top)"
    raise UserError(f"'{about}' does not exist: there is no such file or folder, and {told}.")
