"""A torch backend's step as a framework's users write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .torch_step import TorchStep


class FrameworkStep(TorchStep):
    """TorchStep's order of things, with the framework's own forward, backward, clipping and optimizer.

    Args:
        backward: runs the backward pass of one micro-batch's mean loss; divides it by the accumulation.
        wrapped: the framework's optimizer around `optimizer`.
        wrapper: the module as torch wraps it, inside the framework's own if there is one.
        release: undoes what the framework left in the process.
        options: as TorchStep's. The framework casts, so that `autocast` is not among them.
    """

    def __init__(
        self,
        *,
        backward: Callable[[Tensor], None],
        wrapped: Any,
        wrapper: nn.Module,
        release: Callable[[], None],
        **options: Any,
    ) -> None:
        super().__init__(**options, autocast=False)
        self._wrapper_of_torch = wrapper
        self._backward_of_framework = backward
        self._wrapped = wrapped
        self._release = release

    def _zero_grad(self) -> None:
        self._wrapped.zero_grad()

    def _backward(self, loss: Tensor) -> None:
        self._backward_of_framework(loss)

    def _update(self) -> None:
        if self._max_norm is not None:
            self._norm = self._clip(self._max_norm)
        self._wrapped.step()

    @property
    def _wrapper(self) -> nn.Module:
        return self._wrapper_of_torch

    def close(self) -> None:
        super().close()
        self._release()
