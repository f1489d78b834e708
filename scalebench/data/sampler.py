"""Which samples a rank draws in each optimizer step: one permutation per epoch, the same on every rank."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from scalebench.errors import UserError


class GlobalBatchSampler:
    """One rank's draws, step by step, over one epoch.

    Draw `epoch · samples + i` is sample i, seen for the epoch's time: a source takes the sample itself by the draw
    modulo its length, and what is random about it (scalebench.data.draws) by the draw.

    A step takes the next micro_batch · accumulation · world_size samples of the epoch's permutation, cut into
    micro-batches numbered g = 0, 1, ...; micro-batch g belongs to rank g // accumulation. So the samples of a step, and
    of its micro-batch g, do not depend on how many ranks share them: one rank with accumulation · world_size
    micro-batches sees the very same ones in the same order. What does not fill a last step is left out of the epoch,
    and so is what exceeds `most_steps`.

    Raises UserError when there are too few samples for one step.
    """

    def __init__(
        self,
        samples: int,
        *,
        micro_batch: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        most_steps: int | None = None,
    ) -> None:
        self.samples = samples
        self.per_rank = micro_batch * accumulation
        self.per_step = self.per_rank * world_size
        self.offset = self.per_rank * rank
        self.seed = seed
        self.epoch = 0
        self.most_steps = most_steps
        if samples < self.per_step:
            raise UserError(
                f"the data holds {samples} samples, fewer than one global batch of {self.per_step} "
                f"({micro_batch} per micro-batch x {accumulation} accumulated x {world_size} ranks). "
                "Give more data with --data, a smaller --micro-batch, or, of text, a smaller workload.context_length."
            )

    def __len__(self) -> int:
        """Steps in an epoch."""
        whole = self.samples // self.per_step
        return min(whole, self.most_steps or whole)

    def set_epoch(self, epoch: int) -> None:
        """Which permutation the next iteration takes."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        """Per step, this rank's int64 draws in order, micro-batch after micro-batch."""
        order = epoch_permutation(self.samples, self.seed, self.epoch) + self.epoch * self.samples
        for start in range(self.offset, len(self) * self.per_step, self.per_step):
            yield order[start : start + self.per_rank]


def epoch_permutation(samples: int, seed: int, epoch: int) -> Tensor:
    """The order of the samples in `epoch`, int64. Seed and epoch are hashed into the 32 bits torch seeds the CPU by."""
    digest = hashlib.blake2b(f"{seed}:{epoch}".encode(), digest_size=4).digest()
    return torch.randperm(samples, generator=torch.Generator().manual_seed(int.from_bytes(digest, "little")))
