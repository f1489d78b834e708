"""Samples that lie in memory, or in a file mapped into it; and those that are made of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scalebench.data.base import SampleSource
from scalebench.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TensorSamples:
    """Sample i is row i of every column; each column has its dtype in a batch, whatever it is stored in."""

    name: str
    sha256: str | None
    columns: Mapping[str, Tensor]
    dtypes: Mapping[str, torch.dtype]

    def __len__(self) -> int:
        return min(column.size(0) for column in self.columns.values())

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The rows at `indices`, counted round and round, copied in that order."""
        rows = torch.as_tensor(indices) % len(self)
        return {name: column.index_select(0, rows).to(self.dtypes[name]) for name, column in self.columns.items()}


@dataclass(frozen=True, kw_only=True)
class Derived:
    """What is made of the samples of a `source`, under its name, and as many. Subclasses give `__getitems__`."""

    source: SampleSource

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def sha256(self) -> str | None:
        return self.source.sha256

    def __len__(self) -> int:
        return len(self.source)


def require_classes(names: Sequence[str], num_classes: int | None, source: str) -> None:
    """Raise UserError when there are more classes than the model has; None is a model without any."""
    if num_classes is not None and len(names) > num_classes:
        raise UserError(
            f"{source} holds {len(names)} classes, the model knows {num_classes}. "
            f"Give --set workload.num_classes={len(names)}, or data of fewer."
        )


def wrong_kind(data: str, allowed: str) -> UserError:
    """The error for data that a model cannot read; `allowed` says what it can."""
    return UserError(f"data '{data}' are of a kind that this workload does not read. Give {allowed}.")
