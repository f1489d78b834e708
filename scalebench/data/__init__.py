"""Real and synthetic samples by global index, and the loader that hands them to ranks.

What to train on is named by a word or a path (see scalebench.data.names), here resolved without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalebench.data.names import DATA_HELP as DATA_HELP
from scalebench.data.names import KINDS as KINDS
from scalebench.data.names import STDLIB as STDLIB
from scalebench.data.names import SYNTHETIC as SYNTHETIC
from scalebench.data.names import resolve_name as resolve_name

if TYPE_CHECKING:
    from scalebench.data.batches import loader as loader


def __getattr__(name: str) -> Any:
    if name == "loader":
        from scalebench.data.batches import loader

        return loader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
