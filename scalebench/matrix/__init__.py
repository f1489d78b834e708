"""From what was asked (`Request`) to the cells of a comparison (`resolve`) and the order of their runs (`plan`)."""

from __future__ import annotations

from scalebench.matrix.cells import resolve
from scalebench.matrix.plan import DEFAULT_REPEATS, plan
from scalebench.matrix.ranks import BASELINE
from scalebench.matrix.request import Axes, Request, RequestError
from scalebench.matrix.sought import Search, search_of

__all__ = ["BASELINE", "DEFAULT_REPEATS", "Axes", "Request", "RequestError", "Search", "plan", "resolve", "search_of"]
