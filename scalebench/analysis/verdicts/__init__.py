"""Did the new side get worse? Cells matched, each metric of them compared, a verdict that holds for all of them."""

from __future__ import annotations

from .deciding import Outcome, Rule, Verdict, decide
from .matching import Match, match, match_as_asked

__all__ = ["Match", "Outcome", "Rule", "Verdict", "decide", "match", "match_as_asked"]
