"""What really happens inside one optimizer step, seen from below: operators, collectives, recomputation, casts.

Everything is observed on the running model; nothing is taken from what a strategy says of itself. Only for steps off
the clock: every operator is intercepted.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from scalebench import compat
from scalebench.strategies.base import TrainStep

Types = Sequence[type]

_aten = torch.ops.aten
FLOP_FORMULAS: dict[Any, Any] = {
    **flop_registry,
    # torch has formulas for the attention kernels of GPUs only; those of the CPU take the same arguments
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}
"""The operators that are a model's matrix products, to the FLOPs of one call (attention counted as full)."""

OPTIMIZER_KERNELS = {"_fused_": "fused", "_foreach_": "foreach", "add": "for-loop"}
"""How torch's optimizers name the operators of their implementations, the most telling first."""


class StepObserver(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its own __init_subclass__
    """Watch the optimizer steps run inside; nothing it sees is kept alive.

    Attributes:
        flops: FLOPs by the dtype of the operands of matrix products, forward and backward.
        reduced: per micro-batch (forward pass of the whole module), elements of gradients reduced between ranks, by
            dtype. Counted where torch issues the collective (c10d), before a backend translates it.
        recomputed: forward regions run again, each known by the backward node that needed it.
        autocast: dtypes of torch.autocast in force in forward passes.
        gradients: dtypes of the gradients that lay beside the module's parameters when the optimizer began, or, where
            there were none, of those that it was given.
        updated: dtypes of the values that the optimizer updates: the parameters, or a backend's masters of them.
        scattered: whether some reduction was a reduce-scatter.
    """

    def __init__(self, step: TrainStep, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[str] = Counter()
        self.reduced: list[Counter[str]] = []
        self.recomputed: set[tuple[int, int]] = set()
        self.autocast: set[str] = set()
        self.gradients: set[str] = set()
        self.updated: set[str] = set()
        self.scattered = False
        self._updates: set[str] = set()
        self._step = step
        self._device = device
        self._vectors = sum(1 for _ in step.module.parameters())
        self._in_optimizer = False

    def __torch_dispatch__(self, func: Any, types: Types, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if has_own_dispatch(types):
            return NotImplemented  # a DTensor, say, first turns itself into operators on plain tensors and collectives
        out = func(*args, **(kwargs or {}))
        packet = getattr(func, "overloadpacket", None)
        if packet in FLOP_FORMULAS:
            self.flops[dtypes(args)[0]] += FLOP_FORMULAS[packet](*args, **(kwargs or {}), out_val=out)
        elif "c10d" in func.namespace and "reduce" in func.__name__:
            self._count_reduced(func.__name__, args)
        elif self._in_optimizer:
            self._updates.add(func.__name__)
        return out

    @property
    def optimizer_kernel(self) -> str | None:
        """How the optimizer is implemented: `fused`, `foreach` or `for-loop`; None when not by torch."""
        found = (kind for mark, kind in OPTIMIZER_KERNELS.items() if any(mark in name for name in self._updates))
        return next(found, None)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while inside."""
        optimizer = self._step.optimizer
        handles = [
            self._step.module.register_forward_pre_hook(self._micro_batch_begins, prepend=True),
            register_module_forward_pre_hook(self._module_runs),
            optimizer.register_step_pre_hook(self._update_begins),
            optimizer.register_step_post_hook(self._update_ended),
        ]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _micro_batch_begins(self, module: nn.Module, args: Any) -> None:
        self.reduced.append(Counter())

    def _module_runs(self, module: nn.Module, args: Any) -> None:
        if torch.is_autocast_enabled(self._device.type):
            self.autocast.add(dtype_name(torch.get_autocast_dtype(self._device.type)))
        node = compat.backward_node()
        if node:
            self.recomputed.add(node)

    def _update_begins(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._in_optimizer = True
        updated = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.updated.update(dtypes(updated))
        beside_module = dtypes([parameter.grad for parameter in self._step.module.parameters()])
        self.gradients.update(beside_module or dtypes([parameter.grad for parameter in updated]))

    def _update_ended(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._in_optimizer = False

    def _count_reduced(self, name: str, args: tuple[Any, ...]) -> None:
        """Add one reduction's elements, unless they are too few to be gradients (flags, norms)."""
        payload = max((floating(arg) for arg in args), key=lambda tensors: sum(t.numel() for t in tensors))
        elements = sum(tensor.numel() for tensor in payload)
        if elements > self._vectors and self.reduced:
            self.reduced[-1][dtype_name(payload[0].dtype)] += elements
            self.scattered |= "scatter" in name


def has_own_dispatch(types: Types) -> bool:
    """Whether one of these tensor classes handles operators itself."""
    return any(kind not in (Tensor, nn.Parameter, nn.Buffer) for kind in types)


def floating(value: Any) -> list[Tensor]:
    """The floating-point tensors in an argument."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def dtypes(value: Any) -> list[str]:
    """The dtypes of the floating-point tensors in an argument, in order."""
    return [dtype_name(tensor.dtype) for tensor in floating(value)]


def dtype_name(dtype: torch.dtype) -> str:
    """torch's name without `torch.`."""
    return str(dtype).removeprefix("torch.")


def joined(names: Iterable[str]) -> str | None:
    """Several dtypes as one word, joined by `+`; None for none."""
    return "+".join(dict.fromkeys(names)) or None
