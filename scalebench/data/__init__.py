"""Real and synthetic samples by global index, and the loader that hands them to ranks.

What to train on is named by one word or path, here resolved without importing torch: `stdlib` (the sources of Python's
standard library, real text on every machine), `synthetic`, or the path of a text file or of a folder of them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from scalebench.errors import UserError

if TYPE_CHECKING:
    from scalebench.data.batches import loader as loader

SYNTHETIC = "synthetic"
STDLIB = "text:stdlib"
DATA_HELP = "a text file or a folder of them, 'stdlib' for Python's own sources, or 'synthetic'"


def resolve_name(given: str | None = None) -> str:
    """What a person calls the data, as a spec stores it: `synthetic`, `text:stdlib` or `text:` and an absolute path.

    None is `text:stdlib`. Already resolved names stay as they are. Raises UserError for a path that does not exist;
    a folder called `stdlib` or `synthetic` is given as `./stdlib`.
    """
    if given is None or given in ("stdlib", STDLIB):
        return STDLIB
    if given == SYNTHETIC:
        return SYNTHETIC
    path = os.path.expanduser(given.removeprefix("text:"))
    if not os.path.exists(path):  # False also for unknown users, circles of links and what no path can be
        raise UserError(f"data '{given}' does not exist. Give {DATA_HELP}.")
    return f"text:{os.path.realpath(path)}"


def __getattr__(name: str) -> Any:
    if name == "loader":
        from scalebench.data.batches import loader

        return loader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
