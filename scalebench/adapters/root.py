"""The outermost module of a user's own model: what strategies wrap, whose forward takes a flat batch and gives the
loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scalebench.adapters.nested import cast, unflatten
from scalebench.strategies.base import Batch, Task

PREFIX = "model."
"""What stands before the names of a user's own module in ours."""


def unwrapped(module: nn.Module) -> tuple[str, nn.Module]:
    """A user's own module inside of ours, and what stands before its names; any other as it is."""
    return (PREFIX, module.model) if isinstance(module, Root) else ("", module)


class Root(nn.Module):
    """A user's module as `model`; its parameters are named `model.NAME`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, task: Task = "loss") -> Any:
        """`loss`: the mean loss of the batch, an fp32 scalar. `metrics`: sums over its samples. Else ValueError."""
        if task == "generate":
            raise ValueError("a model of one's own generates nothing")
        loss, logged = self.run(self._as_stored(batch), task)
        if task == "loss":
            return loss.float() if isinstance(loss, Tensor) else loss  # what is no loss is told before launch
        samples = next(iter(batch.values())).size(0)
        means = {"loss": loss, **logged}
        sums = {f"{name}_sum": value.detach().float() * samples for name, value in means.items()}
        return sums | {"samples": loss.detach().new_tensor(float(samples))}

    def run(self, batch: Batch, task: Task) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The mean loss, and whatever else the model says of the batch (means)."""
        raise NotImplementedError

    def _as_stored(self, batch: Batch) -> Batch:
        """Floating-point inputs in 16 bit where the parameters are, since nothing else would cast them."""
        dtype = next((one.dtype for one in self.model.parameters() if one.is_floating_point()), None)
        if dtype is None or dtype.itemsize != 2:
            return batch
        return cast(dict(batch), dtype)  # type: ignore[no-any-return]


class PlainRoot(Root):
    """A plain module with its loss, or one that gives its loss itself; see scalebench.adapters.model.Model."""

    def __init__(self, model: nn.Module, loss: Callable[..., Any] | None) -> None:
        super().__init__(model)
        self.loss = loss
        self._entries = _entries(model)

    def run(self, batch: Batch, task: Task) -> tuple[Tensor, Mapping[str, Tensor]]:
        nested = unflatten(batch)
        if isinstance(nested, dict):
            known = self._entries or nested
            output = self.model(**{name: value for name, value in nested.items() if name in known})
            target: Any = nested
        elif isinstance(nested, tuple):
            # A loss of its own needs the target too.
            arguments = nested[:-1] if self.loss is not None and len(nested) > 1 else nested
            output, target = self.model(*arguments), nested[-1]
        else:
            output, target = self.model(nested), nested
        if self.loss is None:
            return loss_in(output), {}
        return self.loss(cast(output, torch.float32), target), {}  # whatever casts, as autocast computes losses


def loss_in(output: Any) -> Any:
    """The loss that a module returned: `output.loss`, `output["loss"]`, a tuple's one scalar, or the output itself."""
    if isinstance(output, Mapping):
        return output.get("loss")
    if type(output) in (tuple, list):
        scalars = [one for one in output if isinstance(one, Tensor) and one.dim() == 0]
        return scalars[0] if len(scalars) == 1 else None
    return output if isinstance(output, Tensor) else getattr(output, "loss", None)


def _entries(model: nn.Module) -> frozenset[str] | None:
    """The arguments that the module's forward names; None when it takes any."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return None
    return frozenset(one.name for one in parameters)
