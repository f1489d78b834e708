"""A LightningModule with its LightningDataModule, from `lightning` or `pytorch_lightning`, without a Trainer.

The two packages have different classes and are told by their names; neither is imported here. What a Trainer would do
around training_step is either done (prepare_data once per node, setup on every rank, configure_optimizers with its
scheduler, logging), refused (hooks that change the training), or named in the record (hooks that are not called).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scalebench.adapters import BLOCKS, Scalar
from scalebench.adapters.dataset import DatasetSource, require_dataset
from scalebench.adapters.importing import told
from scalebench.adapters.nested import unflatten
from scalebench.adapters.optimizers import Rates, config_of, no_decay_names, require_all_trained
from scalebench.adapters.own import OwnWorkload, open_own
from scalebench.adapters.randomness import seed_all
from scalebench.adapters.root import Root, loss_in
from scalebench.errors import UserError
from scalebench.strategies.base import Batch, Task

PACKAGES = ("lightning", "pytorch_lightning")
CHANGING = (
    "backward", "configure_gradient_clipping", "lr_scheduler_step", "on_after_backward", "on_after_batch_transfer",
    "on_before_batch_transfer", "on_before_optimizer_step", "on_before_zero_grad", "optimizer_step",
    "optimizer_zero_grad", "training_step_end", "transfer_batch_to_device",
)  # fmt: skip
"""Hooks by which a module changes the step itself, which belongs to the strategy here."""
UNCALLED = (
    "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end",
    "on_train_epoch_end", "on_train_end", "on_fit_end", "configure_callbacks",
)  # fmt: skip
"""Hooks that a Trainer calls around steps, and nobody does here."""


class Logged:
    """What takes the place of `self.log`: the last value of each name."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(value, Tensor) and value.numel() == 1:
            self.values[name] = value.detach().reshape(())
        elif isinstance(value, int | float):
            self.values[name] = torch.tensor(float(value))

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        for name, value in dictionary.items():
            self.log(name, value)


class LightningRoot(Root):
    """`training_step` as forward; for metrics `validation_step`, where there is one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._logged = Logged()
        self._steps = 0
        for name in ("log", "log_dict"):
            object.__setattr__(model, name, getattr(self._logged, name))

    def run(self, batch: Batch, task: Task) -> tuple[Any, Mapping[str, Tensor]]:
        model: Any = self.model
        self._place(next(iter(batch.values())).device)
        self._logged.values = {}
        validates = task == "metrics" and overrides(model, "validation_step")
        output = _called(model.validation_step if validates else model.training_step, unflatten(batch), self._steps)
        self._steps += 1
        logged = {name: value for name, value in self._logged.values.items() if name != "loss"}
        loss = loss_in(output)
        if loss is None and validates:
            loss = next((value for name, value in logged.items() if "loss" in name), None)
        return loss, logged

    def _place(self, device: torch.device) -> None:
        """Let `self.device` be true, which only a Trainer's `to` sets."""
        for module in self.model.modules():
            if "_device" in module.__dict__:
                module.__dict__["_device"] = device


def adapted(name: str, made: Any, options: Mapping[str, Scalar], seed: int) -> OwnWorkload | None:
    """The workload of a LightningModule and its data; None when `made` holds no LightningModule."""
    parts = made if isinstance(made, tuple | list) else (made,)
    modules = [part for part in parts if is_a(part, "LightningModule")]
    if len(modules) != 1:
        return None
    module, others = modules[0], [part for part in parts if part is not modules[0]]
    if len(others) > 1:
        raise UserError(
            f"{name} returned a LightningModule with {len(others)} more; one LightningDataModule goes with it."
        )
    _refuse(name, module)
    dataset, collate, told_of_data = _data(name, module, others[0] if others else None, seed)
    settings = _optimization(name, module)
    root = LightningRoot(module)
    given = options.get(BLOCKS)
    return OwnWorkload(
        name=name,
        root=root,
        open_samples=open_own(name, lambda seed: DatasetSource(name, dataset, collate, seed)),
        blocks=None if given is None else str(given),
        notes=[*told_of_data, *settings.pop("notes"), *_uncalled(module)],
        **settings,
    )


def is_a(value: object, name: str) -> bool:
    """Whether `value` is of the class `name` of Lightning, of either package."""
    return base_class(value, name) is not None


def base_class(value: object, name: str) -> type | None:
    """Lightning's own class `name` among those of `value`."""
    found = (kind for kind in type(value).__mro__ if kind.__name__ == name)
    return next((kind for kind in found if kind.__module__.partition(".")[0] in PACKAGES), None)


def overrides(module: object, hook: str, kind: str = "LightningModule") -> bool:
    """Whether the user's class has its own `hook`."""
    own, base = getattr(type(module), hook, None), getattr(base_class(module, kind), hook, None)
    return own is not None and own is not base


def _refuse(name: str, module: Any) -> None:
    """Raise UserError for a module whose training only a Trainer can do."""
    if not module.automatic_optimization:
        raise UserError(
            f"{name} optimizes manually (automatic_optimization=False): here the strategy owns backward and step. "
            "Use automatic optimization, or measure your own loop by scalebench.Recorder."
        )
    if not overrides(module, "training_step"):
        raise UserError(f"{name} has no training_step.")
    own = [hook for hook in CHANGING if overrides(module, hook)]
    if own:
        raise UserError(
            f"{name} overrides {', '.join(own)}, which change the step that strategies are compared by. Measure it "
            "under Lightning's Trainer by scalebench.lightning_callback instead."
        )


def _data(name: str, module: Any, data: Any, seed: int) -> tuple[Any, Any, list[str]]:
    """The training dataset, how it is collated, and what of its loader is not used here."""
    owners = [owner for owner in (data, module) if is_a(owner, "LightningModule") or is_a(owner, "LightningDataModule")]
    with told(name):
        once_per_node(owners)
        seed_all(seed, "setup")  # what was drawn while preparing was drawn on one rank alone
        for owner in owners:
            owner.setup("fit")
        if hasattr(module, "configure_model"):
            module.configure_model()
    source = next((owner for owner in owners if _has_loader(owner)), None)
    if data is not None and not is_a(data, "LightningDataModule"):
        return _of_loader(name, data)
    if source is None:
        raise UserError(f"{name} has no train_dataloader. Return (module, LightningDataModule), or name both: A+B.")
    with told(name):
        loader = source.train_dataloader()
    return _of_loader(name, loader)


def _has_loader(owner: Any) -> bool:
    kind = "LightningModule" if is_a(owner, "LightningModule") else "LightningDataModule"
    return overrides(owner, "train_dataloader", kind)


def _of_loader(name: str, loader: Any) -> tuple[Any, Any, list[str]]:
    """Of a DataLoader its dataset; of a dataset itself."""
    parts = list(loader.values()) if isinstance(loader, dict) else loader if isinstance(loader, list | tuple) else []
    if any(isinstance(part, torch.utils.data.DataLoader) for part in parts):
        raise UserError(f"{name} has several training loaders; here there is one.")
    if not isinstance(loader, torch.utils.data.DataLoader):
        require_dataset(loader, name)
        return loader, None, []
    require_dataset(loader.dataset, name)
    note = (
        "its DataLoader gives dataset and collate_fn; batch size, shuffling, sampler and workers are the run's "
        f"(the loader's batch size is {loader.batch_size})"
    )
    return loader.dataset, loader.collate_fn, [note]


def once_per_node(owners: list[Any]) -> None:
    """`prepare_data` on the first rank of each node, while the others wait."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for owner in owners:
            owner.prepare_data()
    if dist.is_initialized():
        dist.barrier()


def _optimization(name: str, module: Any) -> dict[str, Any]:
    """What configure_optimizers says, as arguments of OwnWorkload."""
    with told(name):
        configured = module.configure_optimizers() if overrides(module, "configure_optimizers") else None
    optimizer, scheduler = _single(name, configured)
    if optimizer is None:
        return {"notes": ["it configures no optimizer, so the run's own trains it"]}
    root = Root(module)
    try:
        config = config_of(optimizer)
        require_all_trained(optimizer, root)
    except UserError as error:
        return {"optimizer": f"{name}: {error}", "notes": []}
    kind = type(optimizer).__name__
    notes = [
        f"its {kind} is rebuilt by the one builder of all strategies with its settings: {config.name}, learning rate "
        f"{config.learning_rate:g}, weight decay {config.weight_decay:g}"
    ]
    rates = None
    if scheduler:
        rates, note = _rates(scheduler, optimizer)
        notes.append(note)
    return {"optimizer": config, "no_decay": no_decay_names(optimizer, root), "rates": rates, "notes": notes}


def _single(name: str, configured: Any) -> tuple[Any, dict[str, Any] | None]:
    """The one optimizer and its scheduler's configuration, of any shape that configure_optimizers may return."""
    if isinstance(configured, tuple | list) and len(configured) == 2 and isinstance(configured[0], tuple | list):
        optimizers, schedulers = list(configured[0]), list(configured[1] or [])
    elif isinstance(configured, tuple | list):
        optimizers, schedulers = list(configured), []
    else:
        optimizers, schedulers = [] if configured is None else [configured], []
    dicts = [one for one in optimizers if isinstance(one, dict)]
    schedulers += [one["lr_scheduler"] for one in dicts if "lr_scheduler" in one]
    optimizers = [one["optimizer"] if isinstance(one, dict) else one for one in optimizers]
    if len(optimizers) > 1 or len(schedulers) > 1:
        raise UserError(
            f"{name} configures {len(optimizers)} optimizers and {len(schedulers)} schedulers; strategies are compared "
            "by one optimizer. Return one, or measure your own loop by scalebench.Recorder."
        )
    scheduler = schedulers[0] if schedulers else None
    if scheduler is not None and not isinstance(scheduler, dict):
        scheduler = {"scheduler": scheduler}
    return (optimizers[0] if optimizers else None), scheduler


def _rates(scheduler: dict[str, Any], optimizer: Any) -> tuple[Rates | None, str]:
    """The learning rates that a scheduler's configuration stands for, and what to say of it."""
    kind = type(scheduler["scheduler"]).__name__
    if kind == "ReduceLROnPlateau":
        return None, "its ReduceLROnPlateau waits for validations, of which a run has none: the learning rate stays"
    interval, frequency = str(scheduler.get("interval") or "epoch"), int(scheduler.get("frequency") or 1)
    rates = Rates(scheduler["scheduler"], optimizer, interval=interval, frequency=frequency)
    return rates, f"its {kind} sets the learning rate, once per {frequency} {interval}{'s' if frequency > 1 else ''}"


def _uncalled(module: Any) -> list[str]:
    own = [hook for hook in UNCALLED if overrides(module, hook)]
    return [f"not called, as there is no Trainer: {', '.join(own)}"] if own else []


def _called(step: Any, batch: Any, index: int) -> Any:
    """training_step(batch), or with the number of the batch."""
    takes = [one for one in inspect.signature(step).parameters.values() if one.kind is not one.VAR_KEYWORD]
    return step(batch) if len(takes) == 1 else step(batch, index)
