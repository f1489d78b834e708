"""scalebench: measure DDP, FSDP and DeepSpeed with one model, one loop and one clock."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalebench.adapters.model import Model
    from scalebench.analysis.frame import load
    from scalebench.integrations.lightning import lightning_callback
    from scalebench.integrations.recorder import Recorder
    from scalebench.integrations.transformers import transformers_callback
    from scalebench.training.weights import load_checkpoint

__version__ = "0.1.0"
__all__ = ["Model", "Recorder", "lightning_callback", "load", "load_checkpoint", "transformers_callback"]

_HOMES = {
    "Model": "adapters.model",
    "Recorder": "integrations.recorder",
    "lightning_callback": "integrations.lightning",
    "load": "analysis.frame",
    "load_checkpoint": "training.weights",
    "transformers_callback": "integrations.transformers",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `import scalebench` alone stays quick."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"scalebench.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'scalebench' has no attribute '{name}'")
