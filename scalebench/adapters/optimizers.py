"""A user's optimizer as the one that every strategy builds: its class and hyper-parameters, honoured or refused.

All strategies build their optimizer by one function (scalebench.strategies.construct), or it would not be the
strategies that are compared. What a model brings along is therefore read, not used: AdamW, Adam without weight decay
(the same update), or SGD, with one learning rate for all parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from scalebench.errors import UserError
from scalebench.strategies.config import OptimizerConfig

INSTEAD = "Use one of these, or name one by --optimizer, which replaces it."
OFF = ("amsgrad", "maximize", "nesterov", "dampening")
"""What no strategy's optimizer does."""


def config_of(optimizer: torch.optim.Optimizer) -> OptimizerConfig:
    """Its settings. Raises UserError for what the one builder cannot make."""
    kind, groups = type(optimizer).__name__, optimizer.param_groups
    if kind not in ("AdamW", "Adam", "SGD"):
        raise UserError(f"its optimizer is {kind}; AdamW, Adam and SGD can be built for every strategy. {INSTEAD}")
    asked = next((name for name in OFF if any(group.get(name) for group in groups)), None)
    if asked:
        raise UserError(f"its {kind} has {asked}={groups[0][asked]}, which is not built here. {INSTEAD}")
    decay = weight_decay(groups)
    if kind == "Adam" and decay:
        raise UserError(f"its Adam decays weights by {decay} through the gradient, unlike AdamW. {INSTEAD}")
    rate = float(_one(kind, "initial_lr" if "initial_lr" in groups[0] else "lr", groups))
    if kind == "SGD":
        momentum = float(_one(kind, "momentum", groups))
        return OptimizerConfig(name="sgd", learning_rate=rate, weight_decay=decay, momentum=momentum)
    first, second = (float(beta) for beta in _one(kind, "betas", groups))
    eps = float(_one(kind, "eps", groups))
    return OptimizerConfig(name="adamw", learning_rate=rate, weight_decay=decay, betas=(first, second), eps=eps)


def weight_decay(groups: Sequence[Mapping[str, Any]]) -> float:
    """The one weight decay of those groups that have any. Raises UserError for several."""
    decays = {float(group["weight_decay"]) for group in groups} - {0.0}
    if len(decays) > 1:
        raise UserError(f"its groups decay weights by {sorted(decays)}; here there is one weight decay, or none.")
    return decays.pop() if decays else 0.0


def no_decay_names(optimizer: torch.optim.Optimizer, module: nn.Module) -> frozenset[str]:
    """The parameters of groups without weight decay, by their names in `module`."""
    plain = {id(one) for group in optimizer.param_groups if not group["weight_decay"] for one in group["params"]}
    return frozenset(name for name, one in module.named_parameters() if id(one) in plain)


def require_all_trained(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """Raise UserError when a trainable parameter is in none of the optimizer's groups: here all are trained."""
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    left = [name for name, one in module.named_parameters() if one.requires_grad and id(one) not in held]
    if left:
        raise UserError(f"its optimizer leaves out {left[0]}, which is trainable. Freeze it by requires_grad_(False).")


def _one(kind: str, name: str, groups: Sequence[Mapping[str, Any]]) -> Any:
    values = {repr(group[name]): group[name] for group in groups}
    if len(values) > 1:
        raise UserError(f"its {kind} has groups of {name} {' and '.join(values)}; here all parameters have one.")
    return next(iter(values.values()))


class Rates:
    """How a torch scheduler changes the learning rate from step to step, read from an optimizer that itself never
    steps.

    Args:
        interval: `step` or `epoch`. frequency: of how many of these one counts.
    """

    def __init__(self, scheduler: Any, optimizer: torch.optim.Optimizer, *, interval: str, frequency: int) -> None:
        self._scheduler, self._optimizer = scheduler, optimizer
        self._every_step, self._frequency = interval == "step", frequency

    def __call__(self, learning_rate: float, steps_per_epoch: int) -> Iterator[float]:
        """The learning rate of each step, endless, where `learning_rate` is the one that is scheduled.

        To be asked once: a scheduler cannot go back.
        """
        every = self._frequency * (1 if self._every_step else steps_per_epoch)
        group = self._optimizer.param_groups[0]
        self._optimizer._opt_called = True  # type: ignore[attr-defined]  # else torch warns that it never stepped
        for step in itertools.count(1):
            yield learning_rate * float(group["lr"]) / float(group["initial_lr"])
            if step % every == 0 and not self._ended():
                self._scheduler.step()

    def _ended(self) -> bool:
        """OneCycleLR has a last step, after which it would raise: its last rate stays."""
        total = getattr(self._scheduler, "total_steps", None)
        return total is not None and self._scheduler.last_epoch + 1 >= int(total)
