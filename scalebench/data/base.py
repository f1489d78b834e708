"""What the loader needs of a source of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class SampleSource(Protocol):
    """Samples by GLOBAL index: what sample i holds never depends on rank, world size or who asks."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str | None:
        """Of the contents, so that runs on other data are never compared; None when they follow from a seed."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The samples at `indices` as one batch on the CPU, in that order (torch's fetcher calls this)."""
