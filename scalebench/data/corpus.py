"""The bytes of text files, joined once into a cached file that every process maps into memory. Torch-free.

A cache file starts with the 64 hex digits of its contents' SHA-256 and is named after the files it was made from
(path, size, time of change), so that a changed corpus is read anew. It appears whole or not at all: it is written under
another name and renamed; of several processes that want it at once, one writes and the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from scalebench.data import DATA_HELP, STDLIB
from scalebench.errors import UserError

HEADER_BYTES = 64
CHUNK_BYTES = 1 << 20
SKIPPED_STDLIB_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "__pycache__"}


def corpus_files(data: str) -> list[Path]:
    """The files that `data` (`text:stdlib` or `text:PATH`) consists of, in the order they are read.

    A folder gives its files, and its folders' files, by sorted path, hidden ones left out. The standard library gives
    its `*.py` without tests and installed packages. Raises UserError when there is nothing to read.
    """
    root = _root(data)
    try:
        files = [root] if root.is_file() else sorted(_walk(root))
    except OSError as error:
        raise _unreadable(Path(error.filename or root), error) from error
    if data == STDLIB:
        files = [file for file in files if file.suffix == ".py"]
    if not files:
        raise UserError(f"there is no text in {root}. Give --data {DATA_HELP}.")
    return files


def cached_corpus(files: Sequence[Path], cache: Path | None = None) -> Path:
    """The cache file of `files`, written if it is not there yet.

    Raises UserError when a file cannot be read or the cache (default: `$XDG_CACHE_HOME/scalebench`) cannot be written.
    """
    folder = cache or default_cache()
    target = folder / f"{_fingerprint(files)}.tokens"
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if not target.exists():
                _write(files, target)
    except OSError as error:
        raise UserError(
            f"cannot write the token cache in {folder}: {error.strerror}. "
            "Make room there, or set XDG_CACHE_HOME to a folder that can be written."
        ) from error
    return target


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/scalebench`, by default `~/.cache/scalebench`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "scalebench"


def read_sha256(corpus: Path) -> str:
    """The SHA-256 of a cache file's contents, as hex digits."""
    with corpus.open("rb") as file:
        return file.read(HEADER_BYTES).decode("ascii")


def _root(data: str) -> Path:
    return Path(sysconfig.get_path("stdlib") if data == STDLIB else data.removeprefix("text:"))


def _walk(folder: Path) -> Iterator[Path]:
    """Regular files below `folder` that are not hidden; of the standard library, without tests and other packages."""

    def fail(error: OSError) -> None:
        raise error

    skipped = SKIPPED_STDLIB_FOLDERS if folder == _root(STDLIB) else {"__pycache__"}
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if name not in skipped and not name.startswith(".")]
        yield from (path for name in names if not name.startswith(".") and (path := Path(parent, name)).is_file())


def _fingerprint(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise _unreadable(file, error) from error
        digest.update(f"{file.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _write(files: Sequence[Path], target: Path) -> None:
    """Write the joined contents of `files` and their hash to `target`, in one rename."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=target.stem, suffix=".part")
    try:
        with open(descriptor, "wb") as out:
            digest = hashlib.sha256()
            out.write(bytes(HEADER_BYTES))
            for chunk in _chunks(files):
                digest.update(chunk)
                out.write(chunk)
            out.seek(0)
            out.write(digest.hexdigest().encode("ascii"))
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _chunks(files: Sequence[Path]) -> Iterator[bytes]:
    for path in files:
        try:
            with path.open("rb") as file:
                yield from iter(lambda file=file: file.read(CHUNK_BYTES), b"")  # type: ignore[misc]
        except OSError as error:
            raise _unreadable(path, error) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `path` locked until the end or death of this process. Where files cannot be locked, work is only doubled."""
    with path.open("wb") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {path}: {error.strerror}. Give --data {DATA_HELP}.")
