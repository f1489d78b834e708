"""What theory needs to know of a run, so that its formulas are functions of the record alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydantic import model_validator

from scalebench.records.facts import Facts
from scalebench.theory.activations import Saved
from scalebench.theory.model import Model, Module
from scalebench.theory.scheme import Scheme


class TheoryFacts(Facts):
    """The model and the scheme of a run; the scheme is None for a strategy whose doings are not known.

    `saved` is what the forward pass of one sample keeps for the backward pass, None if the workload does not know.
    """

    model: Model
    scheme: Scheme | None = None
    saved: Saved | None = None

    @model_validator(mode="after")
    def _known_parameters(self) -> Self:
        named = {index for block in self.model.blocks for index in block} | set(_owned(self.model.root))
        unknown = named - set(range(len(self.model.parameters)))
        if unknown:
            raise ValueError(f"the model has no parameter {min(unknown)}")
        return self


def _owned(module: Module) -> Iterator[int]:
    yield from module.own
    for child in module.children:
        yield from _owned(child)
