"""What was made of files once, kept in a file that every process finds. Torch-free.

A kept file is named after the files it was made from (path, size, time of change), so that what changed is read anew.
It appears whole or not at all: it is written under another name and renamed; of several processes that want it at
once, one writes and the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from scalebench.errors import UserError

CHUNK_BYTES = 1 << 20


def kept(files: Sequence[Path], ending: str, write: Callable[[BinaryIO], None], folder: Path | None = None) -> Path:
    """The file that `write` makes of `files`, written if it is not there yet.

    Raises UserError when a file cannot be read or `folder` (default: `$XDG_CACHE_HOME/scalebench`) cannot be written.
    """
    folder = folder or default_cache()
    target = folder / f"{_fingerprint(files)}.{ending}"
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if not target.exists():
                _write(write, target)
    except OSError as error:
        raise UserError(
            f"cannot write into the cache {folder}: {error.strerror}. "
            "Make room there, or set XDG_CACHE_HOME to a folder that can be written."
        ) from error
    return target


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/scalebench`, by default `~/.cache/scalebench`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "scalebench"


def chunks(files: Sequence[Path]) -> Iterator[bytes]:
    """The contents of `files`, one after the other. Raises UserError for one that cannot be read."""
    for path in files:
        try:
            with path.open("rb") as file:
                yield from iter(lambda file=file: file.read(CHUNK_BYTES), b"")  # type: ignore[misc]
        except OSError as error:
            raise unreadable(path, error) from error


def contents_sha256(files: Sequence[Path], folder: Path | None = None) -> str:
    """The SHA-256 of the joined contents of `files`, computed once."""

    def write(out: BinaryIO) -> None:
        digest = hashlib.sha256()
        for chunk in chunks(files):
            digest.update(chunk)
        out.write(digest.hexdigest().encode("ascii"))

    return kept(files, "sha256", write, folder).read_text("ascii")


def unreadable(path: Path, error: OSError) -> UserError:
    """The error for a file of the data that cannot be read."""
    return UserError(f"cannot read {path}: {error.strerror}. Permit reading it, or give other data with --data.")


def _fingerprint(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise unreadable(file, error) from error
        digest.update(f"{file.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _write(write: Callable[[BinaryIO], None], target: Path) -> None:
    """Have `target` written, in one rename."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=target.stem, suffix=".part")
    try:
        with open(descriptor, "wb") as out:
            write(out)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `path` locked until the end or death of this process. Where files cannot be locked, work is only doubled."""
    with path.open("wb") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
