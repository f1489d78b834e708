"""Whether a checkpoint is still what was written, and which is the last of which that holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from scalebench.training.manifest import (
    DamagedError,
    HeldFile,
    Manifest,
    checkpoints_in,
    found_checkpoint,
    read_manifest,
    sha256_of,
)

DAMAGED = "damaged-"


def verify(checkpoint: Path, manifest: Manifest, only: Iterable[str] | None = None) -> None:
    """Raise DamagedError unless the checkpoint's files (or those that start with one of `only`) are as they were
    written."""
    for name, held in manifest.files.items():
        if only is not None and not name.startswith(tuple(only)):
            continue
        reason = _damage(checkpoint / name, held)
        if reason:
            raise DamagedError(f"the checkpoint {checkpoint} is damaged: {name} {reason}.{_before(checkpoint)}")


def last_whole(path: Path) -> tuple[Path, dict[Path, DamagedError]]:
    """`path` itself if it is a checkpoint, else the last one in it that is as it was written; and what is wrong with
    each later one, the latest first.

    Raises UserError when there is none, and DamagedError when none is whole.
    """
    last, damages = found_checkpoint(path), dict[Path, DamagedError]()
    for checkpoint in [last] if last == path else reversed(checkpoints_in(path)):
        try:
            verify(checkpoint, read_manifest(checkpoint))
            return checkpoint, damages
        except DamagedError as error:
            damages[checkpoint] = error
    raise damages[last]


def set_aside(damaged: Path) -> str:
    """Let it be no checkpoint any more, so that those to come are the last ones. What became of it, in a sentence;
    where nothing can be renamed, nothing."""
    kept = damaged.with_name(f"{DAMAGED}{damaged.name}")
    with contextlib.suppress(OSError):
        damaged.rename(kept)
        return f"The damaged one is kept as {kept.name}."
    return ""


def _before(checkpoint: Path) -> str:
    """Which one there is before it."""
    found = [path.name for path in checkpoints_in(checkpoint.parent)]
    earlier = found[: found.index(checkpoint.name)] if checkpoint.name in found else []
    return f" The one before it is {earlier[-1]}." if earlier else ""


def _damage(file: Path, held: HeldFile) -> str | None:
    try:
        if file.stat().st_size != held.file_bytes:
            return f"holds {file.stat().st_size} bytes instead of {held.file_bytes}"
        return None if sha256_of(file) == held.sha256 else "is not what was written"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
