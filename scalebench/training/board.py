"""How a training stands, in memory that its launcher sees: rank 0 writes numbers, and waits for nobody."""

from __future__ import annotations

from ctypes import c_double
from dataclasses import dataclass, fields
from multiprocessing.sharedctypes import RawArray


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The last known numbers; what is not known yet is nan.

    Attributes:
        step: steps made. loss: mean over the ranks and the steps since the last look. rate: items per second in them.
        validations: how many there were. metric: the monitored metric of the last one.
    """

    step: float = 0.0
    loss: float = float("nan")
    learning_rate: float = float("nan")
    rate: float = float("nan")
    validations: float = 0.0
    metric: float = float("nan")


class Board:
    """Travels to the ranks as they start, and only then."""

    def __init__(self) -> None:
        self._cells = RawArray(c_double, len(fields(Standing)))
        self.write(Standing())

    def write(self, standing: Standing) -> None:
        for place, field in enumerate(fields(Standing)):
            self._cells[place] = getattr(standing, field.name)

    def read(self) -> Standing:
        return Standing(**{field.name: self._cells[place] for place, field in enumerate(fields(Standing))})
