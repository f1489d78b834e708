"""What people read: the answer, the tables, the plots, the report."""

from __future__ import annotations

from .answers import answer

__all__ = ["answer"]
