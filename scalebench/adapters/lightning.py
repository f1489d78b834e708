"""A LightningModule with its LightningDataModule, from `lightning` or `pytorch_lightning`, without a Trainer.

The two packages have different classes and are told by their names; neither is imported here. What a Trainer would do
around training_step is either done (prepare_data once per node, setup on every rank, configure_optimizers with its
scheduler, logging), refused (hooks that change the training), or named in the record (hooks that are not called).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scalebench.adapters import BLOCKS, Scalar
from scalebench.adapters.importing import told
from scalebench.adapters.lightning_classes import is_a, overrides
from scalebench.adapters.lightning_data import data_of
from scalebench.adapters.lightning_logged import Logged, alone, metrics_of
from scalebench.adapters.nested import unflatten
from scalebench.adapters.optimizers import Rates, config_of, no_decay_names, require_all_trained
from scalebench.adapters.own import OwnWorkload, open_own
from scalebench.adapters.root import Root, loss_in
from scalebench.errors import UserError
from scalebench.strategies.base import Batch, Task

CHANGING = (
    "backward", "configure_gradient_clipping", "lr_scheduler_step", "on_after_backward", "on_before_optimizer_step",
    "on_before_zero_grad", "optimizer_step", "optimizer_zero_grad", "training_step_end",
)  # fmt: skip
"""Hooks by which a module changes the step itself, which belongs to the strategy here."""
UNCALLED = (
    "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_backward",
    "on_train_batch_end", "on_train_epoch_end", "on_train_end", "on_fit_end", "on_validation_start",
    "on_validation_epoch_start", "on_validation_batch_start", "on_validation_batch_end", "on_validation_epoch_end",
    "on_validation_end", "on_save_checkpoint", "on_load_checkpoint", "configure_callbacks", "test_step",
)  # fmt: skip
"""Hooks that a Trainer calls around steps, or in place of validation_step in a test, and nobody does here."""


class LightningRoot(Root):
    """`training_step` as forward; for metrics `validation_step`, where there is one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._logged = Logged()
        self._steps = 0
        self._device: torch.device | None = None
        for name in ("log", "log_dict"):
            object.__setattr__(model, name, getattr(self._logged, name))
        for metric in metrics_of(model):
            metric.distributed_available_fn = alone

    def run(self, batch: Batch, task: Task) -> tuple[Any, Mapping[str, Tensor]]:
        device = next(iter(batch.values())).device
        self._place(device)
        if task == "loss":
            return self._loss_of("training_step", batch), {}
        return self._evaluated(batch, device)

    def _evaluated(self, batch: Batch, device: torch.device) -> tuple[Any, Mapping[str, Tensor]]:
        """The loss, and what is logged: its metrics are those of this batch alone."""
        for metric in metrics_of(self.model):
            metric.reset()
        self._logged.taken(device)
        loss = self._loss_of("validation_step" if overrides(self.model, "validation_step") else "training_step", batch)
        logged = self._logged.taken(device)
        losses = [value for name, value in logged.items() if "loss" in name]
        if loss is None and len(losses) == 1:
            loss = losses[0]
        elif loss is None:
            loss = self._loss_of("training_step", batch)
        return loss, {name: value for name, value in logged.items() if name != "loss"}

    def _loss_of(self, step: str, batch: Batch) -> Any:
        self._steps += 1
        return loss_in(_called(getattr(self.model, step), unflatten(batch), self._steps - 1))

    def _place(self, device: torch.device) -> None:
        """Let `self.device` be true, which only a Trainer's `to` sets, and have its metrics there."""
        if device == self._device:
            return
        self._device = device
        for metric in metrics_of(self.model):
            metric.to(device)
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
    data = data_of(name, module, others[0] if others else None, seed)
    settings = _optimization(name, module)
    root = LightningRoot(module)
    given = options.get(BLOCKS)
    return OwnWorkload(
        name=name,
        root=root,
        open_samples=open_own(name, data.training.source),
        open_validation=data.validation.source if data.validation else None,
        open_test=data.open_test,
        blocks=None if given is None else str(given),
        notes=[*filter(None, [data.training.note]), *settings.pop("notes"), *_uncalled(module)],
        **settings,
    )


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
        return None, "its ReduceLROnPlateau is not followed: the learning rate stays, or follows --schedule"
    interval, frequency = str(scheduler.get("interval") or "epoch"), int(scheduler.get("frequency") or 1)
    rates = Rates(scheduler["scheduler"], optimizer, interval=interval, frequency=frequency)
    every = f"{frequency} {interval}s" if frequency > 1 else interval
    cycles = getattr(scheduler["scheduler"], "cycle_momentum", False)
    momentum = "; the momentum, which it would change too, stays" if cycles else ""
    return rates, f"its {kind} sets the learning rate, every {every}{momentum}"


def _uncalled(module: Any) -> list[str]:
    own = [hook for hook in UNCALLED if overrides(module, hook)]
    return [f"not called, as there is no Trainer: {', '.join(own)}"] if own else []


def _called(step: Any, batch: Any, index: int) -> Any:
    """training_step(batch), or with the number of the batch."""
    takes = [one for one in inspect.signature(step).parameters.values() if one.kind is not one.VAR_KEYWORD]
    return step(batch) if len(takes) == 1 else step(batch, index)
