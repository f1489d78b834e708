"""What a workload offers the harness beyond what the strategies need: its items, its FLOPs, its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from torch import Tensor

from scalebench.data.base import SampleSource as SampleSource
from scalebench.strategies.base import Workload as StrategyWorkload
from scalebench.theory.activations import Saved

LearningRates = Callable[[float, int], Iterator[float]]
"""From the learning rate that is scheduled, and the steps of an epoch, to that of each step, endless."""


class Workload(StrategyWorkload, Protocol):
    """A model family at one size with its options resolved."""

    size: str
    item: str
    items_per_sample: int
    default_micro_batch: int
    rates: LearningRates | None = None
    """How the model's own scheduler changes the learning rate from step to step; None: it stays."""
    open_validation: Callable[[int], SampleSource] | None = None
    """By seed, the data that the model brings along to be validated on; None: samples held out of its data."""
    open_test: Callable[[int], SampleSource] | None = None
    """Likewise, to be tested on."""

    def flops_per_sample(self, *, causal: bool = False) -> float | None:
        """Model FLOPs of forward plus backward for one sample, recomputation not counted; None if unknown.

        Attention is counted as full (PaLM's convention) unless `causal`, which counts the keys each query may see.
        """

    def recomputed_flops_per_sample(self) -> float | None:
        """FLOPs that activation checkpointing adds for one sample; None if unknown."""

    def saved_activations(self) -> Saved | None:
        """What the forward pass of one sample keeps for the backward pass; None if unknown."""

    def parameter_count(self) -> int:
        """Parameters, tied ones counted once."""

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """What the sums of the module's task `metrics`, added up over batches and ranks, say: by name, nan of nothing.

        `loss` is always among them.
        """

    def samples(self, data: str, seed: int) -> SampleSource:
        """The training samples that a spec's `data` names. Raises UserError when it cannot be read or is too short."""

    def without_dropout(self) -> Workload:
        """The same without such dropout as none of its options turns off: random numbers depend on the rank."""
        return self
