"""Trackers: where a training's figures go besides its record. A file per tracker; none is imported before it is asked
for, and what one raises never reaches the training (guard.py)."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from scalebench.errors import UserError
from scalebench.trackers.base import Run, Tracker


@dataclass(frozen=True, kw_only=True)
class Known:
    """A tracker's class as `module:Class`, and what has to be known before it is imported.

    Attributes:
        packages: those it needs. keeps_checkpoints: whether it has artifacts.
        environment: variables that keep its package from telling its makers, and from talking, unless set already.
    """

    place: str
    packages: tuple[str, ...] = ()
    keeps_checkpoints: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


TRACKERS = {
    "tensorboard": Known(place="tensorboard:TensorBoard", packages=("tensorboard", "PIL")),
    "wandb": Known(
        place="wandb:Wandb",
        packages=("wandb", "PIL"),
        keeps_checkpoints=True,
        environment={"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"},
    ),
    "mlflow": Known(
        place="mlflow:Mlflow",
        packages=("mlflow", "sqlalchemy", "PIL"),
        keeps_checkpoints=True,
        environment={"MLFLOW_DISABLE_TELEMETRY": "true"},
    ),
    "csv": Known(place="csv:Csv"),
}


def require_installed(names: Iterable[str]) -> None:
    """Raise UserError for a tracker that needs a package which is missing."""
    for name in names:
        missing = [package for package in TRACKERS[name].packages if importlib.util.find_spec(package) is None]
        if missing:
            raise UserError(
                f"--tracker {name} needs {' and '.join(missing)}, not installed here. "
                f"Type: pip install 'scalebench-suite[{name}]'"
            )


def open_tracker(name: str, run: Run) -> Tracker:
    """The tracker `name`, told of `run`. Raises whatever stands in its way."""
    module, _, kind = TRACKERS[name].place.partition(":")
    for variable, value in TRACKERS[name].environment.items():
        os.environ.setdefault(variable, value)
    tracker: Tracker = getattr(importlib.import_module(f"{__name__}.{module}"), kind)(run)
    return tracker
