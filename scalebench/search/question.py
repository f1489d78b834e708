"""Questions: one thing of a cell is left open. The values it may take, and the cell that each of them makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalebench import workloads
from scalebench.matrix.options import workload_options
from scalebench.spec import RunSpec, Sought

MOST_BLOCKS = 1 << 20
"""More than any memory holds: where a search for the depth would end if nothing were refused."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is `sought`: one of `values`, ascending in the memory that they take; and the `cell` of each.

    `before`: the question that the same search began with, if that was another.
    """

    sought: Sought
    values: Sequence[int]
    cell: Callable[[int], RunSpec]
    before: Question | None = None

    @property
    def smallest(self) -> RunSpec:
        """The cell that fits if any does."""
        return self.cell(self.values[0])


def micro_batches(spec: RunSpec, samples: int) -> Question:
    """Which micro-batch? Weak scaling keeps the accumulation, and the data's `samples` must fill a step; strong scaling
    keeps the global batch, so that the accumulation follows."""
    share = spec.micro_batch * spec.accumulation
    if spec.scaling == "strong":
        return Question(
            sought="micro_batch",
            values=[value for value in range(1, share + 1) if share % value == 0],
            cell=lambda value: _changed(spec, micro_batch=value, accumulation=share // value),
        )
    most = samples // (spec.accumulation * spec.world_size)
    return Question(
        sought="micro_batch", values=range(1, most + 1), cell=lambda value: _changed(spec, micro_batch=value)
    )


def sizes(spec: RunSpec, asked: Mapping[str, Any]) -> Question:
    """Which of the workload's sizes, by index? With the options that were `asked`."""
    names = workloads.size_names(spec.workload)
    return Question(
        sought="size",
        values=range(len(names)),
        cell=lambda index: _changed(
            spec, size=names[index], workload_options=workload_options(spec.workload, names[index], asked)
        ),
    )


def depths(spec: RunSpec, option: str, sizes: Question) -> Question:
    """How many blocks, which `option` says, from those of `spec` on, of its width? `spec` was found of `sizes`."""
    options = spec.workload_options
    return Question(
        sought="size",
        values=range(int(options[option] or 1), MOST_BLOCKS),
        cell=lambda blocks: _changed(spec, workload_options=options | {option: blocks}),
        before=sizes,
    )


def _changed(spec: RunSpec, **fields: Any) -> RunSpec:
    return spec.model_copy(update=fields)
