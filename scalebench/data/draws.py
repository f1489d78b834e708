"""What is random about a sample, by its draw: noise, timesteps, dropped labels, augmentation.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is counter-based: a seed and a purpose make
its key, a draw the upper half of its counter. So what a draw gives depends on nothing else, whoever asks and in
whatever order, and the same sample gets other numbers when it is drawn again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers for one purpose, e.g. `noise`: of two purposes they are independent."""

    seed: int
    purpose: str

    def normal(self, draws: Sequence[int] | Tensor, *shape: int) -> Tensor:
        """Standard normal float32, (len(draws), *shape)."""
        values = np.empty((len(draws), prod(shape)), dtype=np.float32)
        for row, generator in zip(values, self._generators(draws), strict=True):
            generator.standard_normal(out=row, dtype=np.float32)
        return torch.from_numpy(values).reshape(len(draws), *shape)

    def uniform(self, draws: Sequence[int] | Tensor) -> Tensor:
        """Even over [0, 1): float64, (len(draws),)."""
        return torch.tensor([generator.random() for generator in self._generators(draws)], dtype=torch.float64)

    def integers(self, draws: Sequence[int] | Tensor, below: int) -> Tensor:
        """Even over 0 to `below` - 1: int64, (len(draws),)."""
        values = [int(generator.integers(below)) for generator in self._generators(draws)]
        return torch.tensor(values, dtype=torch.int64)

    def _generators(self, draws: Sequence[int] | Tensor) -> Iterator[np.random.Generator]:
        digest = hashlib.blake2b(f"{self.seed}:{self.purpose}".encode(), digest_size=16).digest()
        key = int.from_bytes(digest, "little")
        for draw in torch.as_tensor(draws).tolist():
            yield np.random.Generator(np.random.Philox(key=key, counter=draw << 128))
