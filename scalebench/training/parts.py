"""Training samples and those held out of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scalebench.adapters import OWN_DATA
from scalebench.data.base import SampleSource
from scalebench.data.sampler import epoch_permutation
from scalebench.data.samples import Derived
from scalebench.errors import UserError
from scalebench.recipe import Recipe
from scalebench.spec import RunSpec
from scalebench.workloads.base import Workload

HELD_OUT = -1
"""The epoch whose permutation says which samples are held out; training counts from 0."""


@dataclass(frozen=True, kw_only=True)
class Part(Derived):
    """Some samples of a source, `rows` of it (int64), as a source of its own."""

    rows: Tensor

    def __len__(self) -> int:
        return self.rows.numel()

    def __getitems__(self, draws: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The samples of these draws; each sample's draws of the whole are as far apart as its draws here."""
        here = torch.as_tensor(draws)
        return self.source.__getitems__(here // len(self) * len(self.source) + self.rows[here % len(self)])


@dataclass(frozen=True, kw_only=True)
class Split:
    """What is trained on, validated on and, if it was asked for, tested on."""

    train: SampleSource
    val: SampleSource
    test: SampleSource | None = None


def parts(workload: Workload, spec: RunSpec, recipe: Recipe) -> Split:
    """The parts of a training's data. Raises UserError for data that cannot be read, or are too few.

    A user's own model may bring validation and test data along. What is held out of training is, of text, the end,
    since neighbouring windows are alike; of anything else samples drawn by the seed. What is tested on comes out of the
    rest.
    """
    whole = workload.samples(spec.data, spec.seed)
    val_data = recipe.val_data or (OWN_DATA if workload.open_validation else None)
    brought = _elsewhere(val_data, workload, workload.open_validation, spec.seed)
    elsewhere = _elsewhere(recipe.test_data, workload, workload.open_test, spec.seed)
    val, test = (_count(len(whole), share) for share in (None if brought else recipe.val_share, recipe.test_share))
    if val + test >= len(whole):
        raise UserError(f"{spec.data} holds {len(whole)} samples, too few to hold any out. Give --val-data.")
    if not val + test:
        return Split(train=whole, val=brought or whole, test=elsewhere)
    in_order = spec.data.startswith("text:")
    order = torch.arange(len(whole)) if in_order else epoch_permutation(len(whole), spec.seed, HELD_OUT)
    rows = torch.split(order, [len(whole) - val - test, test, val])
    train_part, test_part, val_part = (Part(source=whole, rows=part) for part in rows)
    return Split(train=train_part, val=brought or val_part, test=elsewhere or (test_part if test else None))


def _count(samples: int, share: float | None) -> int:
    return max(1, round(samples * share)) if share else 0


def _elsewhere(
    data: str | None, workload: Workload, own: Callable[[int], SampleSource] | None, seed: int
) -> SampleSource | None:
    """What is no part of the training data: `data`, if any, of which the model brings along its `own`."""
    if data != OWN_DATA:
        return workload.samples(data, seed) if data else None
    if own is None:
        raise UserError(f"{workload.name} brings no such data along. Leave --val-data and --test-data {data} out.")
    return own(seed)
