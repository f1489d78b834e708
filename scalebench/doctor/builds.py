"""What building extensions left behind: locks of builds that were killed, folders that cannot be written."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from scalebench.doctor.finding import Finding, note, ok, problem

YOUNG_SECONDS = 60.0
"""So long a build may take from its lock to its first compiler."""


def extensions_folder() -> Path:
    """Where torch builds extensions, DeepSpeed's among them."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else cache / "torch_extensions"


def locks() -> Iterator[Finding]:
    """A build that was killed leaves its lock; whoever needs that extension next waits for it for ever."""
    folder = extensions_folder()
    found = [path for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/lock"))]
    for path in found:
        age = time.time() - path.stat().st_mtime
        if age < YOUNG_SECONDS or _in_use(path.parent):
            yield note(f"{path}: its extension is being built now", "wait until that has ended, then ask again")
        else:
            yield problem(f"{path}: {age / 60:.0f} min old, and nobody builds there", f"rm -r {path.parent}")
    if not found:
        yield ok(f"none in {folder}")


def _in_use(folder: Path) -> bool:
    """Whether a process works in this folder, as ninja and its compilers do while they build."""
    return any(found.info["cwd"] == str(folder.resolve()) for found in psutil.process_iter(["cwd"]))


def folder() -> Iterator[Finding]:
    """Extensions are built here on first use; a folder on a network file system is slow and its locks unsafe."""
    path = extensions_folder()
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    remedy = f"export TORCH_EXTENSIONS_DIR=/tmp/torch_extensions-{os.getuid()}"
    kind = _file_system(nearest)
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield problem(f"{path} cannot be written", remedy)
    elif kind.startswith(("nfs", "lustre", "cifs", "beegfs", "gpfs")):
        yield note(f"{path} is on {kind}", remedy)
    else:
        yield ok(str(path))


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`; empty when it is none that can be seen."""
    mounts = [part for part in psutil.disk_partitions(all=True) if path.resolve().is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else ""


CHECKS = (locks, folder)
