"""What is random about a sample, by its draw: noise, timesteps, dropped labels, augmentation.

Numbers are hashes of counters: SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"),
whose n-th output is a mixing of the n-th multiple of an odd constant. So what a draw gives depends on seed, purpose and
draw alone, whoever asks, in whatever order and on whatever device, and a sample gets other numbers when it is drawn
again. Many at once cost a few integer operations each, where a generator for each draw would cost tens of microseconds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STEP = 0x9E3779B97F4A7C15
FIRST_FACTOR, SECOND_FACTOR = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""SplitMix64's constants."""
RADIUS_BITS, ANGLE_BITS = 40, 24
"""Of a hash's 64: they make two normal values, at most 7.4 deviations out."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers for one purpose, e.g. `noise`: of two purposes they are independent."""

    seed: int
    purpose: str

    def keys(self, draws: Sequence[int] | Tensor) -> Tensor:
        """64 random bits for each draw: int64, (len(draws),), where `draws` is."""
        digest = hashlib.blake2b(f"{self.seed}:{self.purpose}".encode(), digest_size=8).digest()
        return hashed(int.from_bytes(digest, "little", signed=True) + _signed(STEP) * torch.as_tensor(draws))

    def uniform(self, draws: Sequence[int] | Tensor) -> Tensor:
        """Even over [0, 1): float64, (len(draws),)."""
        return _shifted(self.keys(draws), 11).double() / 2**53

    def integers(self, draws: Sequence[int] | Tensor, below: int) -> Tensor:
        """Even over 0 to `below` - 1, at most 2³¹: int64, (len(draws),)."""
        return (below * self.uniform(draws)).long()

    def normal(self, draws: Sequence[int] | Tensor, *shape: int) -> Tensor:
        """Standard normal float32, (len(draws), *shape)."""
        return normals(self.keys(draws), *shape)


def normals(keys: Tensor, *shape: int) -> Tensor:
    """Standard normal float32 (len(keys), *shape) from int64 `keys`, on their device: two of each hash (Box & Muller
    1958)."""
    count = math.prod(shape)
    counters = torch.arange(1, count // 2 + count % 2 + 1, device=keys.device)
    bits = hashed(keys.unsqueeze(1) + _signed(STEP) * counters)
    share = (_shifted(bits, ANGLE_BITS) + 1).float() / 2**RADIUS_BITS
    angle = (bits & (1 << ANGLE_BITS) - 1).float() * (2 * math.pi / 2**ANGLE_BITS)
    radius = (-2 * share.log()).sqrt()
    both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return both[:, :count].reshape(len(keys), *shape)


def hashed(counters: Tensor) -> Tensor:
    """SplitMix64's mixing of int64 `counters`, whose bits stand for a number modulo 2⁶⁴."""
    bits = (counters ^ _shifted(counters, 30)) * _signed(FIRST_FACTOR)
    bits = (bits ^ _shifted(bits, 27)) * _signed(SECOND_FACTOR)
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """`bits` moved right, zeros moving in: torch's own shift of int64 repeats the sign."""
    return bits >> places & (1 << 64 - places) - 1


def _signed(constant: int) -> int:
    """The int64 of the same 64 bits."""
    return constant - (1 << 64) if constant >> 63 else constant
