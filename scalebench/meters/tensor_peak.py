"""The most bytes that tensors hold at once during a step, on devices whose allocator keeps no such count (CPU).

One method for all backends: every storage that an operator of the step reads or writes is known from the first step
on, however the backend made it (DDP's buckets, ZeRO's flat buffers, what autograd saves), and counts until it is freed.
Sizes are those of whole storages. What a kernel allocates inside and frees before it returns is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scalebench import compat
from scalebench.meters.observer import Types, has_own_dispatch
from scalebench.strategies.base import Batch, TrainStep


def measure_tensor_peak(step: TrainStep, micro_batches: Sequence[Batch], device: torch.device) -> int | None:
    """The most bytes that this rank's tensors hold at once in one optimizer step. Runs two; collective.

    None on CUDA, whose allocator counts better, and with compiled regions, which allocate where nobody can look.
    """
    if device.type != "cpu" or compat.compiled_graphs():
        return None
    tracker = TensorPeak()
    with tracker:
        step(micro_batches)
        tracker.reset()
        step(micro_batches)
    return tracker.peak


class TensorPeak(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its own __init_subclass__
    """While active, follow the storages that operators touch; `peak` is the most bytes they held at once.

    Run one step to learn what there is, `reset`, and the step to measure.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._storages: dict[int, weakref.ref[UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Types, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if has_own_dispatch(types):
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu":
                self._follow(leaf.untyped_storage())
        self.peak = max(self.peak, self.held())
        return out

    def reset(self) -> None:
        """Begin anew with what is held now."""
        self.peak = self.held()

    def held(self) -> int:
        """Bytes of all known storages that still exist. Asked of each anew, since a storage may have been resized."""
        alive = [storage for reference in list(self._storages.values()) if (storage := reference()) is not None]
        return sum(storage.nbytes() for storage in alive)

    def _follow(self, storage: UntypedStorage) -> None:
        key = id(storage)
        if key not in self._storages:
            self._storages[key] = weakref.ref(storage, lambda _: self._storages.pop(key, None))
