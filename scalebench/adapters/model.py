"""What a factory returns for a plain PyTorch module: the module, its loss, its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Model:
    """A module with its loss and its data; the tuple (module, loss, dataset) says the same.

    Attributes:
        module: an nn.Module with its initial values.
        loss: called with the module's output and the target, as nn.CrossEntropyLoss is; with the output and the whole
            batch where samples are dicts. None: the module returns its loss itself, or something that has it as `loss`.
        dataset: has `len` and gives a sample for an index from 0: tensors and numbers, or tuples, lists and dicts of
            them. Of a tuple all but the last are the module's arguments, the last is the target; of a dict the module
            gets the entries that its forward names; a lone tensor is both argument and target.
        validation, test: datasets that trainings are validated on, and tested on where `--test` is asked for; samples
            held out of `dataset` unless given.
        collate_fn: makes a batch of a list of samples; torch's default_collate unless given.
        blocks: the repeated blocks: names of modules, of containers of them, or of their class. Found unless given.
        item, items_per_sample: what throughput counts, and how many of it a sample holds.
    """

    module: Any
    loss: Callable[..., Any] | None = None
    dataset: Any = None
    validation: Any = None
    test: Any = None
    collate_fn: Callable[[list[Any]], Any] | None = None
    blocks: str | Sequence[str] | None = None
    item: str = "sample"
    items_per_sample: int = 1
