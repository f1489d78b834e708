"""What every tracker can, and what it is told of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scalebench.trackers.options import Options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pictures = NDArray[np.uint8]
    """(n, channels, height, width), of 1 or 3 channels."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a tracker is told before the first figure.

    Attributes:
        id: tells this training from all others, and is the same for all parts of a resumed one. name: for people.
        parameters: every hyper-parameter, by dotted names.
        first_step: steps that it has behind it: more than 0 where it is resumed.
    """

    id: str
    name: str
    options: Options
    parameters: Mapping[str, Any]
    first_step: int = 0

    @property
    def folder(self) -> Path:
        """Where local stores lie."""
        return Path(self.options.dir).absolute()


class Tracker(Protocol):
    """Lives in a thread of the launching process, which alone calls it; built with a Run.

    Every method may raise: the tracker is then told of and left out.
    """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Figures after `step` steps, by names such as `train/loss`; steps never fall."""

    def images(self, name: str, images: Pictures, step: int) -> None:
        """Pictures made after `step` steps; a tracker without pictures leaves them."""

    def checkpoint(self, path: Path) -> None:
        """Keep the checkpoint in the folder `path`; a tracker without artifacts leaves it."""

    def end(self, status: str) -> str:
        """Finish: `ok`, `interrupted`, or how else a record says that a run ended. Returns what to type, or where to
        look, to see it."""
