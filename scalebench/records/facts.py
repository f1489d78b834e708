"""The base of everything that is recorded."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Facts(BaseModel):
    """Immutable, and without a field that the schema does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Computed = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""What a model computed, which may be no finite number: JSON has none of that kind, holds null, and is read as nan."""
