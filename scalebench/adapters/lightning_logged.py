"""What a LightningModule logs: numbers, scalars, and metrics of torchmetrics, which is not imported for it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Logged:
    """What takes the place of `self.log` and `self.log_dict`: the last value of each name."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        self._values[name] = value.detach() if isinstance(value, Tensor) else value

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        for name, value in dictionary.items():
            self.log(name, value)

    def taken(self, device: torch.device) -> dict[str, Tensor]:
        """What was logged since it was last taken, as scalars on `device`; what is none is left out."""
        values = {name: value.compute() if hasattr(value, "compute") else value for name, value in self._values.items()}
        self._values = {}
        numbers = {name: value for name, value in values.items() if isinstance(value, Tensor | int | float)}
        tensors = {name: torch.as_tensor(value, device=device) for name, value in numbers.items()}
        return {name: value.reshape(()) for name, value in tensors.items() if value.numel() == 1}


def metrics_of(module: nn.Module) -> list[Any]:
    """The metrics of torchmetrics in `module`."""
    torchmetrics: Any = sys.modules.get("torchmetrics")
    return [] if torchmetrics is None else [one for one in module.modules() if isinstance(one, torchmetrics.Metric)]


def alone() -> bool:
    """Whether a metric is to ask other ranks for theirs: never, since means over ranks are made of what each finds."""
    return False
