"""What a person calls a checkpoint, `PATH` or `PATH@PREFIX`, resolved and told from others by its contents. Torch-free.

The prefix is what stands before the names of the model's parameters in the file, where it holds the model more than
once, e.g. `run.ckpt@state_dict.ema_model`.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from scalebench.errors import UserError

WEIGHTS = "weights.safetensors"
"""In each folder of a checkpoint that `scalebench train` writes."""


def resolve_checkpoint(given: str) -> str:
    """`given` with an absolute path, as a spec stores it; of a folder of `scalebench train`, its weights.

    Raises UserError for what is no file that can be read.
    """
    path, prefix = split_name(given)
    if (path / WEIGHTS).is_file():
        path = path / WEIGHTS
    if not path.exists():
        raise UserError(f"the checkpoint '{given}' does not exist. Give a .ckpt, .pt, .pth or .safetensors file.")
    if path.is_dir():
        raise UserError(
            f"the checkpoint '{given}' is a folder, as sharded training writes it. "
            "Consolidate it into one file first (of scalebench's own, by `scalebench train --export`), and give that."
        )
    if not os.access(path, os.R_OK):
        raise UserError(f"cannot read the checkpoint '{given}'. Permit reading it.")
    return os.path.realpath(path) + ("" if prefix is None else f"@{prefix}")


def split_name(name: str) -> tuple[Path, str | None]:
    """The file and the prefix, None where none is given. A path that exists as it stands has none."""
    whole = Path(os.path.expanduser(name))
    path, at, prefix = name.rpartition("@")
    if not at or whole.exists():
        return whole, None
    return Path(os.path.expanduser(path)), prefix


def checkpoint_sha256(name: str) -> str:
    """The SHA-256 of a checkpoint's file, as hex digits."""
    path, _ = split_name(name)
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
