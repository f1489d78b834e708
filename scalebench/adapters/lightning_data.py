"""The data of a LightningModule: prepared once per node, set up on every rank, taken out of their DataLoaders."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader

from scalebench.adapters.dataset import DatasetSource, require_dataset
from scalebench.adapters.importing import told
from scalebench.adapters.lightning_classes import is_a, overrides
from scalebench.adapters.randomness import kept_apart, seed_all
from scalebench.errors import UserError

TRANSFERRING = ("on_after_batch_transfer", "on_before_batch_transfer", "transfer_batch_to_device")
"""Hooks that change a batch on its way."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What is taken of a DataLoader, or a dataset that there is without one."""

    name: str
    dataset: Any
    collate: Callable[[list[Any]], Any] | None = None
    note: str | None = None

    def source(self, seed: int) -> DatasetSource:
        return DatasetSource(self.name, self.dataset, self.collate, seed)


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """What is trained on, validated on and tested on; the last is set up when it is asked for."""

    training: Loaded
    validation: Loaded | None = None
    open_test: Callable[[int], DatasetSource] | None = None


def data_of(name: str, module: Any, data: Any, seed: int) -> OwnData:
    """The data of a module and the DataModule, DataLoader or dataset beside it.

    Raises UserError where there are none to train on, or several of a kind.
    """
    owners = [owner for owner in (data, module) if kind_of(owner)]
    _refuse(name, owners)
    _set_up(name, module, owners, seed)
    if data is not None and data not in owners:
        return OwnData(training=loaded(name, data))
    training = _loader(name, "train_dataloader", owners)
    if training is None:
        raise UserError(f"{name} has no train_dataloader. Return (module, LightningDataModule), or name both: A+B.")
    validating = _loader(name, "val_dataloader", owners)
    return OwnData(
        training=loaded(name, training),
        validation=None if validating is None else loaded(name, validating),
        open_test=_test_opener(name, owners),
    )


def kind_of(owner: Any) -> str | None:
    """Which of Lightning's classes `owner` is of."""
    return next((kind for kind in ("LightningDataModule", "LightningModule") if is_a(owner, kind)), None)


def _refuse(name: str, owners: Sequence[Any]) -> None:
    own = [hook for owner in owners for hook in TRANSFERRING if overrides(owner, hook, kind_of(owner) or "")]
    if own:
        raise UserError(
            f"{name} overrides {own[0]}, by which batches change on their way. Do it in the dataset or in "
            "training_step, or measure it under Lightning's Trainer by scalebench.lightning_callback."
        )


def _set_up(name: str, module: Any, owners: Sequence[Any], seed: int) -> None:
    with told(name):
        once_per_node(owners)
        seed_all(seed, "setup")  # what was drawn while preparing was drawn on one rank alone
        for owner in owners:
            owner.setup("fit")
        if hasattr(module, "configure_model"):
            module.configure_model()


def once_per_node(owners: Sequence[Any]) -> None:
    """`prepare_data` on the first rank of each node, while the others wait."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for owner in owners:
            owner.prepare_data()
    if dist.is_initialized():
        dist.barrier()


def _test_opener(name: str, owners: Sequence[Any]) -> Callable[[int], DatasetSource] | None:
    owner = _owner("test_dataloader", owners)
    if owner is None:
        return None

    def opened(seed: int) -> DatasetSource:
        with told(name), kept_apart():
            seed_all(seed, "setup")  # as before, so that what a setup splits at random is split as before
            owner.setup("test")
            return loaded(name, owner.test_dataloader()).source(seed)

    return opened


def _loader(name: str, hook: str, owners: Sequence[Any]) -> Any:
    """What the first of `owners` that has this hook of its own returns; None without one."""
    owner = _owner(hook, owners)
    if owner is None:
        return None
    with told(name):
        return getattr(owner, hook)()


def _owner(hook: str, owners: Sequence[Any]) -> Any:
    """The first of `owners` that has this hook of its own."""
    return next((owner for owner in owners if overrides(owner, hook, kind_of(owner) or "")), None)


def loaded(name: str, loader: Any) -> Loaded:
    """Of a DataLoader its dataset and how it is collated; of a dataset itself. Raises UserError for several."""
    parts = list(loader.values()) if isinstance(loader, dict) else loader if isinstance(loader, list | tuple) else []
    if any(isinstance(part, DataLoader) for part in parts):
        raise UserError(
            f"{name} has several loaders of one kind; here there is one to train on, to validate on and to test on."
        )
    if not isinstance(loader, DataLoader):
        require_dataset(loader, name)
        return Loaded(name=name, dataset=loader)
    require_dataset(loader.dataset, name)
    note = (
        "its DataLoader gives dataset and collate_fn; batch size, shuffling, sampler and workers are the run's "
        f"(the loader's batch size is {loader.batch_size})"
    )
    return Loaded(name=name, dataset=loader.dataset, collate=loader.collate_fn, note=note)
