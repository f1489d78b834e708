"""Folders that appear whole or not at all, and never over anything. Torch-free."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from scalebench.errors import UserError


@contextlib.contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, beside `target`; it is renamed to that when all is done, and removed when anything fails.

    Only a killed process leaves it behind, as `.NAME-unfinished-...`, which may be removed. Raises UserError when
    `target` holds anything, or something cannot be read or written.
    """
    target = target.absolute()
    require_free(target)
    unfinished = target.parent / f".{target.name}-unfinished-{secrets.token_hex(4)}"
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        os.rename(unfinished, target)
    except OSError as error:
        at = f" ({error.filename})" if error.filename else ""
        raise UserError(
            f"cannot make {target}: {error.strerror}{at}. Nothing is left of it; mend that, and repeat."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def require_free(target: Path) -> None:
    """Raise UserError when `target` is there and is not an empty folder."""
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} is there already, and nothing is overwritten. Give another folder, or remove it.")
