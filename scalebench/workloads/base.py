"""What a workload offers the harness beyond what the strategies need: its items, its FLOPs, its samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from scalebench.strategies.base import Workload as StrategyWorkload


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


class Workload(StrategyWorkload, Protocol):
    """A model family at one size with its options resolved."""

    size: str
    item: str
    items_per_sample: int
    default_micro_batch: int

    def flops_per_sample(self) -> float | None:
        """Model FLOPs of forward plus backward for one sample, recomputation not counted; None if unknown."""

    def parameter_count(self) -> int:
        """Parameters, tied ones counted once."""

    def samples(self, data: str, seed: int) -> SampleSource:
        """The training samples that a spec's `data` names. Raises UserError when it cannot be read or is too short."""
