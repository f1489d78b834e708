"""Count the collectives that torch dispatches, so that a test can say how often ranks talked."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class CountCollectives(TorchDispatchMode):
    """While active, counts c10d operators by name without underscores at the ends: `allreduce`, `_allgather_base`..."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.counts[func._opname.strip("_")] += 1
        return func(*args, **(kwargs or {}))
