"""How fast batches can be loaded when nothing else is done."""

from __future__ import annotations

from pydantic import Field

from scalebench.records.facts import Facts

STALLED = 0.01
"""Share of the time spent waiting for data from which on it is worth knowing what more workers would do."""


class LoaderRate(Facts):
    """The loader alone on one rank, all ranks at once: `steps` optimizer steps' batches in `seconds`."""

    num_workers: int = Field(ge=0)
    steps: int = Field(ge=1)
    seconds: float = Field(gt=0)
