"""How a step's samples are divided among ranks: weak scaling keeps a rank's share, strong scaling the whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scalebench import workloads
from scalebench.errors import UserError
from scalebench.spec import Scaling


@dataclass(frozen=True, kw_only=True)
class Series:
    """Cells that differ in strategy, ranks and precision only: a scaling series, its baseline included.

    `micro_batch`, `accumulation` and `global_batch` are as asked, None where they were not.
    """

    workload: str
    size: str
    scaling: Scaling
    micro_batch: int | None
    accumulation: int | None
    global_batch: int | None
    ranks: tuple[int, ...]

    def batch(self, world_size: int) -> tuple[int, int]:
        """(micro-batch, accumulation) of each of `world_size` ranks.

        Weak scaling keeps both. Strong scaling keeps the global batch, by default that of the most ranks: a micro-batch
        that was asked for is kept and the accumulation follows, otherwise the accumulation is kept and the micro-batch
        follows. Raises UserError when the global batch does not divide.
        """
        micro_batch = self.micro_batch or workloads.default_micro_batch(self.workload, self.size)
        accumulation = self.accumulation or 1
        if self.scaling == "weak":
            return micro_batch, accumulation
        total = self.global_batch or micro_batch * accumulation * max(self.ranks)
        if self.micro_batch:
            return micro_batch, self._share(total, world_size, "micro-batch", micro_batch)
        return self._share(total, world_size, "accumulation", accumulation), accumulation

    def _share(self, total: int, world_size: int, name: str, factor: int) -> int:
        """`total / (world_size * factor)`. Raises UserError, naming the nearest total for all ranks, when not whole."""
        if total % (world_size * factor):
            unit = math.lcm(*self.ranks) * factor
            near = max(1, (total + unit // 2) // unit) * unit
            raise UserError(
                f"a global batch of {total} does not divide by {world_size} (ranks) x {factor} ({name}). "
                f"The nearest that does for every number of ranks: --global-batch {near}."
            )
        return total // (world_size * factor)
