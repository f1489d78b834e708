"""Where records and probes live: one JSON file each in a folder per session, written atomically, read tolerantly."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from scalebench.errors import UserError

from .probe import Probe
from .record import SCHEMA, Record

NAME = re.compile(r"-(?P<cell_id>[0-9a-f]{12})-[a-z]+[0-9]+\.json")
"""How `Record.file_name` ends."""


REFERENCE = "reference"
"""The folder inside a results folder that holds records kept as evidence, of whatever machine."""


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What a results folder held: valid records with their paths, probes, and what could not be read and why."""

    records: list[Record] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    damaged: list[tuple[Path, str]] = field(default_factory=list)


def write_record(record: Record | Probe, folder: Path) -> Path:
    """Write `record` into `folder`, whole or not at all, and return its path. Raises OSError (a full disk, a
    read-only folder).

    A temporary file is flushed to disk, then renamed. A record that is already there is never overwritten
    (FileExistsError).
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / record.file_name
    if path.exists():
        raise FileExistsError(f"{path} exists; records are never overwritten")
    temporary = folder / f".writing-{os.getpid()}-{path.stem}.tmp"  # no JSON: nobody reads half a record
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(record.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(folder)
    return path


def require_writable(folder: Path, what: str = "results folder", flag: str = "--results") -> None:
    """Raise UserError unless something could be written into `folder` now: said before hours of work, not after.

    `what` it is, and the `flag` that names it, are told.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writing-", suffix=".tmp") as file:
            file.write(b"\0" * 65536)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(
            f"the {what} '{folder}' cannot be written: {reason}. Free or permit it, or choose another with {flag} DIR."
        ) from error


@contextlib.contextmanager
def reserved(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Inside, nobody else who asks for it measures into `folder`: who comes second calls `waiting`, and waits.

    The kernel takes the lock back whatever becomes of this process, and no file is left of it. On a file system that
    has no locks nobody waits. Raises UserError as `require_writable`.
    """
    require_writable(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            _lock(descriptor, waiting)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, waiting: Callable[[], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def load_records(path: Path, cell_ids: Collection[str] | None = None) -> LoadResult:
    """Every record and probe under `path` (a folder, searched recursively, or one file), in the order of their paths.

    Reference records inside a results folder are not its own: they are read by giving their folder, or one in it.
    With `cell_ids` only records of these cells; files of others, told by their names, are not opened. Files that are
    not valid records are listed, never fatal. Raises UserError when `path` does not exist.
    """
    if not path.exists():
        raise UserError(
            f"'{path}' does not exist. Give a results folder or a record file, or measure first: scalebench run"
        )
    result = LoadResult()
    for file in record_files(path):
        if cell_ids is not None and not ((name := NAME.search(file.name)) and name["cell_id"] in cell_ids):
            continue
        try:
            record = read_record(file)
        except ValueError as error:
            result.damaged.append((file, str(error)))
            continue
        if isinstance(record, Probe):
            result.probes.append(record)
        else:
            result.records.append(record)
            result.paths.append(file)
    return result


def record_files(path: Path) -> list[Path]:
    """The JSON files under `path`, sorted, without those of the reference folder in it."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*.json") if file.relative_to(path).parts[0] != REFERENCE)


def _kind(content: Any) -> str:
    return "probe" if isinstance(content, dict) and "probe_schema" in content else "record"


_STORED: TypeAdapter[Record | Probe] = TypeAdapter(
    Annotated[Annotated[Record, Tag("record")] | Annotated[Probe, Tag("probe")], Discriminator(_kind)]
)


def read_record(file: Path) -> Record | Probe:
    """The record or probe in `file`. Raises ValueError, its message one line, when the file is unreadable, damaged or
    of another schema."""
    try:
        return _STORED.validate_json(file.read_bytes())
    except OSError as error:
        raise ValueError(f"unreadable: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "file"
        if place in ("record_schema", "probe_schema"):
            raise ValueError(f"{place.replace('_', ' ')} {first['input']!r}; this version reads {SCHEMA}") from error
        raise ValueError(f"not a valid record: {place}: {first['msg']}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
