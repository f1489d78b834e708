"""What theory needs to know of a run, so that its formulas are functions of the record alone."""

from __future__ import annotations

from scalebench.records.facts import Facts
from scalebench.theory.activations import Saved
from scalebench.theory.model import Model
from scalebench.theory.scheme import Scheme


class TheoryFacts(Facts):
    """The model and the scheme of a run; the scheme is None for a strategy whose doings are not known.

    `saved` is what the forward pass of one sample keeps for the backward pass, None if the workload does not know.
    """

    model: Model
    scheme: Scheme | None = None
    saved: Saved | None = None
