"""The most bytes that tensors hold at once during a step, and what they are for at that moment.

One method for all backends: every storage that an operator of the step reads or writes is known from the first step
on, however the backend made it (DDP's buckets, ZeRO's flat buffers, what autograd saves), and counts until it is freed.
Sizes are those of whole storages. What a kernel allocates inside and frees before it returns is not seen.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scalebench import compat
from scalebench.meters.holdings import Holdings, storage_bytes, storage_of
from scalebench.meters.observer import Types, has_own_dispatch
from scalebench.records.memory import MemorySplit
from scalebench.strategies.base import Batch, TrainStep

COMMUNICATING = ("c10d", "_c10d_functional", "fsdp")
"""Namespaces of operators that exchange tensors between ranks, or copy them to and from where they are exchanged."""


def measure_memory(step: TrainStep, micro_batches: Sequence[Batch], device: torch.device) -> dict[str, Any]:
    """What this rank's tensors hold: fields of MemoryFacts. Runs two optimizer steps; collective.

    The peak and its split are left out with compiled regions, which allocate where nobody can look.
    """
    holdings = Holdings(step)
    kept: dict[str, Any] = {"parameters": storage_bytes(holdings.parameters())}
    tracker = None if compat.compiled_graphs() else TensorPeak(holdings, device)
    with holdings.watching(), tracker.watching() if tracker else contextlib.nullcontext():
        step(micro_batches)
        if tracker:
            tracker.reset()
        step(micro_batches)
    kept |= {"gradients": holdings.gradient_bytes, "optimizer_state": storage_bytes(holdings.optimizer_state())}
    return kept | ({"tensor_peak": tracker.peak, "split": tracker.split} if tracker else {})


class TensorPeak(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its own __init_subclass__
    """While watching, follow the storages that operators touch; `peak` is the most bytes they held at once, and `split`
    what these were.

    Run one step to learn what there is, `reset`, and the step to measure.
    """

    def __init__(self, holdings: Holdings, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.split: MemorySplit | None = None
        self._holdings = holdings
        self._device = device.type
        self._parameters = keys(holdings.parameters())
        self._storages: dict[int, weakref.ref[UntypedStorage]] = {}
        self._exchanged: set[int] = set()
        self._of_forward: set[int] = set()
        self._forward_depth = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Follow while inside."""
        handles = [
            register_module_forward_pre_hook(self._module_begins),
            register_module_forward_hook(self._module_ended, always_call=True),
        ]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Types, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if has_own_dispatch(types):
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        for storage in self._here((args, kwargs, out)):
            self._follow(storage)
        if func.namespace in COMMUNICATING:
            results = (out, (kwargs or {}).get("out"))
            self._exchanged |= {id(s) for s in self._here(results if func.namespace == "fsdp" else (args, kwargs, out))}
        if (held := self.held()) > self.peak:
            self.peak, self.split = held, self._split()
        return out

    def reset(self) -> None:
        """Begin anew with what is held now."""
        self._parameters = keys(self._holdings.parameters())
        self.peak, self.split = self.held(), self._split()

    def held(self) -> int:
        """Bytes of all known storages that still exist. Asked of each anew, since a storage may have been resized."""
        return sum(storage.nbytes() for storage in self._alive())

    def _split(self) -> MemorySplit:
        """What is held now, by what it is for: a storage belongs to the first that it fits, in this order."""
        holdings = self._holdings
        categories = {
            "parameters": self._parameters,
            "optimizer_state": keys(holdings.optimizer_state()),
            "communication_buffers": keys(compat.bucket_buffers(holdings.module)),
            "gradients": keys(holdings.gradients()),
        }
        found = dict.fromkeys(MemorySplit.model_fields, 0)
        for storage in self._alive():
            key = storage.data_ptr()
            name = next((name for name, known in categories.items() if key in known), self._by_making(storage))
            found[name] += storage.nbytes()
        return MemorySplit(**found)

    def _by_making(self, storage: UntypedStorage) -> str:
        if id(storage) in self._exchanged:
            return "communication_buffers"
        return "activations" if id(storage) in self._of_forward else "other"

    def _module_begins(self, module: nn.Module, args: Any) -> None:
        self._forward_depth += 1
        self._exchanged_parameters(module)

    def _module_ended(self, module: nn.Module, args: Any, out: Any) -> None:
        self._forward_depth -= 1
        self._exchanged_parameters(module)  # hooks of the module's own, which ran in between, may have gathered them

    def _exchanged_parameters(self, module: nn.Module) -> None:
        """A parameter that a module computes with and that is not kept between steps has been gathered."""
        for storage in self._here(list(module.parameters(recurse=False))):
            self._follow(storage)
            self._exchanged.add(id(storage))

    def _here(self, values: Any) -> list[UntypedStorage]:
        leaves = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.device.type == self._device)
        return [storage_of(leaf) for leaf in leaves]

    def _alive(self) -> list[UntypedStorage]:
        return [storage for reference in list(self._storages.values()) if (storage := reference()) is not None]

    def _follow(self, storage: UntypedStorage) -> None:
        key = id(storage)
        if key not in self._storages:
            self._storages[key] = weakref.ref(storage, lambda _: self._forget(key))
            if self._forward_depth:
                self._of_forward.add(key)

    def _forget(self, key: int) -> None:
        self._storages.pop(key, None)
        self._exchanged.discard(key)
        self._of_forward.discard(key)


def keys(tensors: Iterable[Tensor]) -> set[int]:
    """Where the storages of tensors begin; none for those that hold nothing."""
    return {storage_of(tensor).data_ptr() for tensor in tensors} - {0}
