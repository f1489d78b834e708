"""What really happens inside one optimizer step, seen from below: operators, collectives, recomputation, casts.

Everything is observed on the running model; nothing is taken from what a strategy says of itself. Only for steps off
the clock: every operator is intercepted.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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

COLLECTIVES = (
    ("all_reduce", ("allreduce", "all_reduce")),
    ("all_gather", ("allgather", "all_gather")),
    ("reduce_scatter", ("reduce_scatter",)),
    ("all_to_all", ("alltoall", "all_to_all")),
    ("broadcast", ("broadcast",)),
    ("reduce", ("reduce",)),
    ("gather", ("gather",)),
    ("scatter", ("scatter",)),
    ("send", ("send",)),
    ("receive", ("recv",)),
)
"""Kinds of collectives, and how the names of torch's operators for them (c10d) begin, the most telling first."""

OPTIMIZER_KERNELS = {"_fused_": "fused", "_foreach_": "foreach", "add": "for-loop"}
"""How torch's optimizers name the operators of their implementations, the most telling first."""


@dataclass(frozen=True, kw_only=True)
class Issued:
    """One collective as torch issues it, before a backend translates it.

    Attributes:
        ranks: ranks that take part. dtype: of what is sent.
        elements, payload_bytes: of what goes in or comes out on one rank, the larger of the two.
        control: at most a value for each of the module's parameters, too small for gradients: flags, norms.
        micro_batch: which of the step's forward passes of the whole module came last, from 0.
    """

    kind: str
    ranks: int
    dtype: str
    elements: int
    payload_bytes: int
    control: bool
    micro_batch: int


class StepObserver(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its own __init_subclass__
    """Watch the optimizer steps run inside; nothing it sees is kept alive.

    Attributes:
        flops: FLOPs by the dtype of the operands of matrix products, forward and backward.
        collectives: every collective of the step, in order.
        micro_batches: forward passes of the whole module.
        recomputed: forward regions run again, each known by the backward node that needed it.
        autocast: dtypes of torch.autocast in force in forward passes.
        gradients: dtypes of the gradients that lay beside the module's parameters when the optimizer began, or, where
            there were none, of those that it was given.
        updated: dtypes of the values that the optimizer updates: the parameters, or a backend's masters of them.
        updated_on: device types that those values are on.
    """

    def __init__(self, step: TrainStep, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[str] = Counter()
        self.collectives: list[Issued] = []
        self.micro_batches = 0
        self.recomputed: set[tuple[int, int]] = set()
        self.autocast: set[str] = set()
        self.gradients: set[str] = set()
        self.updated: set[str] = set()
        self.updated_on: set[str] = set()
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
        elif "c10d" in func.namespace:
            self._issued(func.__name__, args, out)
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
        self.micro_batches += 1

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
        self.updated_on.update(parameter.device.type for parameter in updated)
        beside_module = dtypes([parameter.grad for parameter in self._step.module.parameters()])
        self.gradients.update(beside_module or dtypes([parameter.grad for parameter in updated]))

    def _update_ended(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._in_optimizer = False

    def _issued(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        kind = collective_kind(name)
        if kind is None:
            return
        payload = max(map(tensors, (*args, out)), key=lambda found: sum(tensor.nbytes for tensor in found))
        elements = sum(tensor.numel() for tensor in payload)
        self.collectives.append(
            Issued(
                kind=kind,
                ranks=compat.group_size(args),
                dtype=dtype_name(payload[0].dtype) if payload else "none",
                elements=elements,
                payload_bytes=sum(tensor.nbytes for tensor in payload),
                control=elements <= self._vectors,
                micro_batch=self.micro_batches - 1,
            )
        )


def collective_kind(operator: str) -> str | None:
    """What kind of collective torch's operator of that name is; None if it is none."""
    name = operator.strip("_")
    return next((kind for kind, beginnings in COLLECTIVES if name.startswith(beginnings)), None)


def has_own_dispatch(types: Types) -> bool:
    """Whether one of these tensor classes handles operators itself."""
    return any(kind not in (Tensor, nn.Parameter, nn.Buffer) for kind in types)


def tensors(value: Any) -> list[Tensor]:
    """The tensors in an argument."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def floating(value: Any) -> list[Tensor]:
    """The floating-point tensors in an argument."""
    return [tensor for tensor in tensors(value) if tensor.is_floating_point()]


def dtypes(value: Any) -> list[str]:
    """The dtypes of the floating-point tensors in an argument, in order."""
    return [dtype_name(tensor.dtype) for tensor in floating(value)]


def dtype_name(dtype: torch.dtype) -> str:
    """torch's name without `torch.`."""
    return str(dtype).removeprefix("torch.")


def joined(names: Iterable[str]) -> str | None:
    """Several dtypes as one word, joined by `+`; None for none."""
    return "+".join(dict.fromkeys(names)) or None
