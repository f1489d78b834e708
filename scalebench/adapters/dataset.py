"""A user's map-style dataset as samples by global index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate

from scalebench.adapters.importing import told
from scalebench.adapters.nested import flatten
from scalebench.adapters.randomness import kept_apart, seed_all
from scalebench.errors import UserError

SAMPLES_HASHED = 16


class DatasetSource:
    """Samples of a torch Dataset, or of anything with `len` and `[index]`: a scalebench.data.base.SampleSource.

    Draw d is sample d mod len. What a dataset draws at random (augmentation) follows from the seed and the draw, so
    that it depends on no rank, and another epoch sees it anew.
    """

    def __init__(self, name: str, dataset: Any, collate: Callable[[list[Any]], Any] | None, seed: int) -> None:
        self.name = name
        self._dataset = dataset
        self._collate = collate or default_collate
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The samples at `indices`, collated at once. Raises UserError for what is no batch of tensors."""
        draws = [int(index) for index in indices]
        with told(f"the dataset of {self.name}"), kept_apart():
            batch = self._collate([self._sample(draw) for draw in draws])
        flat = flatten(batch)
        wrong = next((name for name, tensor in flat.items() if tensor.shape[:1] != (len(draws),)), None)
        if wrong is not None or not flat:
            raise UserError(
                f"the dataset of {self.name} makes batches whose part {wrong} is no tensor of one row per sample. "
                "Give samples that can be stacked, or a collate_fn."
            )
        return flat

    def _sample(self, draw: int) -> Any:
        seed_all(self._seed, "draw", draw)
        return self._dataset[draw % len(self._dataset)]

    @property
    def sha256(self) -> str | None:
        """Of a few samples spread over the dataset: whole datasets may take hours to read."""
        count = min(SAMPLES_HASHED, len(self))
        digest = hashlib.sha256(str(len(self)).encode())
        for draw in np.linspace(0, len(self) - 1, count).astype(int):
            for name, tensor in self.__getitems__([int(draw)]).items():
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def require_dataset(dataset: Any, name: str) -> None:
    """Raise UserError unless `dataset` has a length and gives samples by index."""
    indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not indexed or isinstance(dataset, IterableDataset):  # whose base class has a __getitem__ that raises
        raise UserError(
            f"the dataset of {name} is of type {type(dataset).__name__}, which has no length and no samples by index. "
            "Give a map-style dataset: strategies are compared on the very same samples."
        )
    if len(dataset) < 1:
        raise UserError(f"the dataset of {name} is empty. Give at least one global batch of samples.")
