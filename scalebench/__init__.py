"""scalebench: measure DDP, FSDP and DeepSpeed with one model, one loop and one clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalebench.analysis.frame import load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import the public functions on first use: `import scalebench` alone stays quick."""
    if name == "load":
        from scalebench.analysis.frame import load

        return load
    raise AttributeError(f"module 'scalebench' has no attribute '{name}'")
