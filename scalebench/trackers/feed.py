"""The rank's end of tracking: rank 0 sends figures to the launching process, where the trackers are."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LOOK = "look"


class Feed:
    """Travels to the ranks as they start, and only then. Waits for no tracker; a launcher that is gone is ignored."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def look(self, values: Mapping[str, float], step: int) -> None:
        """Figures of the steps since the last look, with which the machine's own are read."""
        self._send(LOOK, dict(values), step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Other figures after `step` steps."""
        self._send("scalars", dict(values), step)

    def images(self, name: str, images: Tensor, step: int) -> None:
        """Pictures, uint8 (n, channels, height, width), of 1 or 3 channels."""
        self._send("images", name, images.cpu().numpy(), step)

    def close(self) -> None:
        """Nothing more comes from this process."""
        self._connection.close()

    def _send(self, *call: object) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(call)
