"""What the loader needs of a source of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class SampleSource(Protocol):
    """Samples by draw: draw d is sample d % len(self), and what is random about it follows from d and a seed.

    Never from the rank, the world size, the process that asks or the order (see GlobalBatchSampler).
    """

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str | None:
        """Of the contents, so that runs on other data are never compared; None when they follow from a seed."""

    def __len__(self) -> int: ...

    def __getitems__(self, draws: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The samples of these draws as one batch on the CPU, in that order (torch's fetcher calls this)."""
