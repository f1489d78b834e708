"""Training samples and those held out of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scalebench.adapters.own import OwnWorkload
from scalebench.data.base import SampleSource
from scalebench.data.sampler import epoch_permutation
from scalebench.errors import UserError
from scalebench.recipe import Recipe
from scalebench.spec import RunSpec
from scalebench.workloads.base import Workload

HELD_OUT = -1
"""The epoch whose permutation says which samples are held out; training counts from 0."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some samples of a source, `rows` of it (int64), as a source of its own."""

    whole: SampleSource
    rows: Tensor

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def sha256(self) -> str | None:
        return self.whole.sha256

    def __len__(self) -> int:
        return self.rows.numel()

    def __getitems__(self, draws: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The samples of these draws; each sample's draws of the whole are as far apart as its draws here."""
        here = torch.as_tensor(draws)
        return self.whole.__getitems__(here // len(self) * len(self.whole) + self.rows[here % len(self)])


def parts(workload: Workload, spec: RunSpec, recipe: Recipe) -> tuple[SampleSource, SampleSource]:
    """What is trained on and what is validated on. Raises UserError for data that cannot be read, or are too few.

    A user's own model may bring both along. Of text the end is held out, since neighbouring windows are alike; of
    anything else samples drawn by the seed.
    """
    whole = workload.samples(spec.data, spec.seed)
    if recipe.val_data:
        return whole, workload.samples(recipe.val_data, spec.seed)
    if isinstance(workload, OwnWorkload) and workload.open_validation:
        return whole, workload.open_validation(spec.seed)
    held = max(1, round(len(whole) * recipe.val_share))
    if held >= len(whole):
        raise UserError(f"{spec.data} holds {len(whole)} samples, too few to hold any out. Give --val-data.")
    in_order = spec.data.startswith("text:")
    order = torch.arange(len(whole)) if in_order else epoch_permutation(len(whole), spec.seed, HELD_OUT)
    return Part(whole=whole, rows=order[:-held]), Part(whole=whole, rows=order[-held:])
