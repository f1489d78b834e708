"""The bytes of text files, joined once into a cached file that every process maps into memory. Torch-free.

The file starts with the 64 hex digits of its contents' SHA-256 (see scalebench.data.cache for the rest of its life).
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from scalebench.data.cache import chunks, kept, unreadable
from scalebench.data.names import DATA_HELP, STDLIB
from scalebench.errors import UserError

HEADER_BYTES = 64
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
        raise unreadable(Path(error.filename or root), error) from error
    if data == STDLIB:
        files = [file for file in files if file.suffix == ".py"]
    if not files:
        raise UserError(f"there is no text in {root}. Give --data {DATA_HELP}.")
    return files


def cached_corpus(files: Sequence[Path], cache: Path | None = None) -> Path:
    """The cache file of `files`, written if it is not there yet. Raises UserError as `kept`."""

    def write(out: BinaryIO) -> None:
        digest = hashlib.sha256()
        out.write(bytes(HEADER_BYTES))
        for chunk in chunks(files):
            digest.update(chunk)
            out.write(chunk)
        out.seek(0)
        out.write(digest.hexdigest().encode("ascii"))

    return kept(files, "tokens", write, cache)


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
