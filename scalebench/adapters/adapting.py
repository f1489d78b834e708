"""From what a factory returned to a workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from scalebench.adapters import BLOCKS, Scalar
from scalebench.adapters.dataset import DatasetSource, require_dataset
from scalebench.adapters.factory import load_factory
from scalebench.adapters.importing import told
from scalebench.adapters.model import Model
from scalebench.adapters.own import OwnWorkload, open_own
from scalebench.adapters.randomness import kept_apart, seed_all
from scalebench.adapters.root import PlainRoot
from scalebench.errors import UserError, with_article
from scalebench.strategies.base import Workload as StrategyWorkload
from scalebench.workloads.base import Workload

ALLOWED = (
    "a tuple (module, loss, dataset), a scalebench.Model, a LightningModule with its LightningDataModule, "
    "a transformers configuration or model, or a workload of scalebench"
)


def adapt(name: str, options: Mapping[str, Scalar], seed: int) -> Workload:
    """The workload that the factory `name` makes with `options`. Raises UserError for whatever stands in the way."""
    factory = load_factory(name)
    with kept_apart():
        seed_all(seed, "build")
        made = factory.make(options)
        only = made[0] if len(made) == 1 else tuple(made)
        return workload_of(name, only, options, seed)


def workload_of(name: str, made: Any, options: Mapping[str, Scalar], seed: int) -> Workload:
    """`made` as a workload."""
    from scalebench.adapters import causal_lm, lightning

    if isinstance(made, StrategyWorkload):
        return _whole(name, made)
    for adapted in (lightning.adapted, causal_lm.adapted):
        workload = adapted(name, made, options, seed)
        if workload is not None:
            return workload
    return plain(name, _model(name, made), options)


def plain(name: str, model: Model, options: Mapping[str, Scalar]) -> OwnWorkload:
    """A plain module with its loss and data."""
    if not isinstance(model.module, nn.Module):
        raise UserError(f"the module of {name} is of type {type(model.module).__name__}, no torch.nn.Module.")
    if model.loss is not None and not callable(model.loss):
        raise UserError(f"the loss of {name} is of type {type(model.loss).__name__}, which cannot be called.")
    if model.items_per_sample < 1:
        raise UserError(f"the items_per_sample of {name} is {model.items_per_sample}. Give a whole number from 1.")
    given = options.get(BLOCKS)

    def opened(dataset: Any) -> Callable[[int], DatasetSource]:
        require_dataset(dataset, name)
        return lambda seed: DatasetSource(name, dataset, model.collate_fn, seed)

    return OwnWorkload(
        name=name,
        root=PlainRoot(model.module, model.loss),
        open_samples=open_own(name, opened(model.dataset)),
        open_validation=None if model.validation is None else opened(model.validation),
        open_test=None if model.test is None else opened(model.test),
        blocks=model.blocks if given is None else str(given),
        item=model.item,
        items_per_sample=model.items_per_sample,
    )


def _model(name: str, made: Any) -> Model:
    if isinstance(made, Model):
        return made
    if isinstance(made, tuple | list) and len(made) == 3:
        return Model(module=made[0], loss=made[1], dataset=made[2])
    if isinstance(made, tuple | list) and len(made) == 2 and isinstance(made[0], nn.Module):
        return Model(module=made[0], dataset=made[1])
    got = with_article(type(made).__name__)
    if isinstance(made, tuple | list):
        got += f" of {', '.join(type(one).__name__ for one in made) or 'nothing'}"
    raise UserError(f"{name} returned {got}. A factory returns {ALLOWED}.")


def _whole(name: str, made: Any) -> Workload:
    """A workload of scalebench's kind under the factory's name. Raises UserError when it lacks something."""
    missing = [key for key in _required() if not hasattr(made, key)]
    if missing:
        raise UserError(
            f"{name} returned a workload without {', '.join(missing)} (scalebench.workloads.base.Workload)."
        )
    with told(name):
        made.name = name
    return made  # type: ignore[no-any-return]


def _required() -> list[str]:
    names = [key for key in dir(Workload) if not key.startswith("_")] + list(Workload.__annotations__)
    return sorted(set(names))
