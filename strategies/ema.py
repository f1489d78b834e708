"""An exponential moving average of the parameters, kept by each rank of what its own optimizer updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from .construct import local_part

Updated = Callable[[], Sequence[Tensor]]
"""What this rank's optimizer updates, now: parameters, shards of them or masters. The same ones in the same order at
each call, but a backend may have put them elsewhere in between."""


class MovingAverage:
    """e <- d e + (1 - d) p after each update, from e = p at the start (Polyak and Juditsky, 1992; with a decay d as in
    Kingma and Ba, arXiv:1412.6980, section 7.2). In fp32 whatever p is: 16 bit would round small changes away.

    No rank sends anything: an average of shards is the shard of the average.

    Attributes:
        shares: this rank's part of the averages, in the order of what is updated.
    """

    def __init__(self, updated: Updated, decay: float) -> None:
        self._updated = updated
        self._weight = 1.0 - decay
        self.restart()

    def restart(self, summands: Iterable[None] = (None,)) -> None:
        """Begin anew from the values as they are, or from the sum of what they are at each of `summands`."""
        self.shares: list[Tensor] = []
        for _ in summands:
            found = [value.detach().to(torch.float32, copy=True) for value in self._values()]
            self.shares = [a + b for a, b in zip(self.shares, found, strict=True)] if self.shares else found

    @torch.no_grad()
    def update(self, applied: Tensor | None = None) -> None:
        """Take in the values after an update; `applied` (a scalar on the device) is 0 where loss scaling dropped it."""
        values = [value.float() for value in self._values()]
        if applied is None:
            torch._foreach_lerp_(self.shares, values, self._weight)
        else:
            torch._foreach_lerp_(self.shares, values, [self._weight * applied] * len(values))

    def as_summands(self) -> Iterator[None]:
        """At each, what the optimizer updates holds values of its dtype; their sum over all is the averages, exactly.

        One does where that is fp32; in 16 bit it takes three.
        """
        rest = self.shares
        for _ in range(self.summands()):
            with self._holding(rest):
                rest = [share - value.detach().float() for share, value in zip(rest, self._values(), strict=True)]
                yield

    def summands(self) -> int:
        """How many values of what is updated hold one of fp32."""
        return 1 if all(value.dtype is torch.float32 for value in self._values()) else 3

    def in_place_of_parameters(self) -> AbstractContextManager[None]:
        """Inside, what the optimizer updates holds the averages (rounded to its dtype)."""
        return self._holding(self.shares)

    @contextmanager
    def _holding(self, shares: Sequence[Tensor]) -> Iterator[None]:
        values = self._values()
        kept = [value.clone() for value in values]
        _copy(values, shares)
        try:
            yield
        finally:
            _copy(self._values(), kept)

    @torch.no_grad()
    def _values(self) -> list[Tensor]:
        return [local_part(tensor) for tensor in self._updated()]


def averages_or_not(average: MovingAverage | None, wanted: bool) -> AbstractContextManager[None]:
    """The context in which parameters are their averages, if `wanted`; the run must keep them then."""
    if not wanted:
        return nullcontext()
    assert average is not None, "this run keeps no moving average: ema_decay is not set"
    return average.in_place_of_parameters()


@torch.no_grad()
def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
