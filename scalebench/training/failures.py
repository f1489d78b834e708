"""What goes wrong with checkpoints, in sentences."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalebench.errors import UserError
from scalebench.strategies.safe_reading import CodeFoundError
from scalebench.training.manifest import checkpoints_in

SHORT_OF_SPACE_BYTES = 2**26


@contextmanager
def told(folder: Path, step: int, place: Path | None = None) -> Iterator[None]:
    """Whatever fails while a checkpoint of `folder` is written, there or first in `place`, becomes a sentence: what,
    where, what is left and what to do."""
    place = place or folder
    try:
        yield
    except Exception as error:  # torch's writers raise what they like of a full disk
        reason, remedy = _reason(error, place)
        found = checkpoints_in(folder)
        last = (
            f"The last whole one is {found[-1].name}: {remedy} and resume from it." if found else "There is no other."
        )
        raise UserError(f"the checkpoint of step {step} could not be written into {place}: {reason}. {last}") from error


@contextmanager
def refused(checkpoint: Path) -> Iterator[None]:
    """Code that is found in a checkpoint becomes a sentence."""
    try:
        yield
    except CodeFoundError as error:
        raise UserError(
            f"the checkpoint {checkpoint} holds code ({error}), which no training saves and which is never run. "
            "Take one that you or your colleagues have written."
        ) from error


def space(folder: Path) -> int:
    """Bytes that are left where `folder` is, or is to be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _reason(error: Exception, place: Path) -> tuple[str, str]:
    """Why nothing could be written there, and what to do; torch's writers do not always say that a disk is full."""
    number = error.errno if isinstance(error, OSError) else None
    full = number in (errno.ENOSPC, errno.EDQUOT)
    if (full or number is None) and space(place) < SHORT_OF_SPACE_BYTES:
        return f"{space(place) // 2**20} MiB are left on its disk", "make room"
    return os.strerror(number) if number else _first_line(error), "make room" if full else "mend that"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
