"""Which tensors a rank holds for what, asked of the step: parameters, gradients, optimizer state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn

from scalebench import compat
from scalebench.strategies.base import TrainStep


class Holdings:
    """What a step holds between steps, and, once `watching` has seen an update, gradients and masters too.

    Attributes:
        masters: what the optimizer updates and the module does not hold.
        gradient_bytes: of all gradients when the update began; None before one was watched.
    """

    def __init__(self, step: TrainStep) -> None:
        self.masters: list[Tensor] = []
        self.gradient_bytes: int | None = None
        self._step = step

    @property
    def module(self) -> nn.Module:
        """The module as the backend runs it."""
        return self._step.module

    def parameters(self) -> list[Tensor]:
        """The module's parameters as they are kept between steps: whole, or this rank's shards of them."""
        found = list(self._step.module.parameters())
        return [*found, *compat.parameter_shards(found)]

    def gradients(self) -> list[Tensor]:
        """The gradients that lie beside parameters, or in the backend's own buffers, now."""
        return [*self._beside_parameters(), *compat.gradient_buffers(self._step.module)]

    def _beside_parameters(self) -> list[Tensor]:
        """Gradients of the module's parameters; what FSDP1 computes with are views, and have none of their own."""
        leaves = (parameter for parameter in self._step.module.parameters() if parameter.is_leaf)
        return [parameter.grad for parameter in leaves if parameter.grad is not None]

    def optimizer_state(self) -> list[Tensor]:
        """The optimizer's tensors, and the masters seen so far."""
        state = [v for values in self._step.optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
        return [*state, *self.masters]

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the optimizer whenever it begins an update, which a backend may cut into several."""
        handle = self._step.optimizer.register_step_pre_hook(self._update_begins)
        try:
            yield
        finally:
            handle.remove()

    def _update_begins(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        updated = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        own = {storage_key(tensor) for tensor in self.parameters()}
        seen = own | {storage_key(tensor) for tensor in self.masters}
        fresh = [parameter for parameter in updated if storage_key(parameter) not in seen]
        self.masters += fresh
        grads = [parameter.grad for parameter in fresh if parameter.grad is not None]
        if self.gradient_bytes is None:
            grads += self._beside_parameters()
            self.gradient_bytes = 0
        self.gradient_bytes += storage_bytes(grads)


def storage_of(tensor: Tensor) -> UntypedStorage:
    """The storage behind a tensor; of a DTensor, behind its local shard."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.untyped_storage()


def storage_key(tensor: Tensor) -> int:
    """What tells storages that exist at the same time apart."""
    return storage_of(tensor).data_ptr()


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind `tensors`; of a DTensor, its local shard."""
    seen: dict[int, int] = {}
    for tensor in tensors:
        storage = storage_of(tensor)
        seen[storage.data_ptr()] = storage.nbytes()
    seen.pop(0, None)
    return sum(seen.values())
