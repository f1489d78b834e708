"""The base of everything that is recorded."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Facts(BaseModel):
    """Immutable, and without a field that the schema does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
