"""From what was asked (`Request`) to the cells of a comparison (`resolve`) and the order of their runs (`plan`)."""

from __future__ import annotations

from scalebench.matrix.cells import BASELINE, DEFAULT_REPEATS, plan, resolve
from scalebench.matrix.request import Request, RequestError

__all__ = ["BASELINE", "DEFAULT_REPEATS", "Request", "RequestError", "plan", "resolve"]
