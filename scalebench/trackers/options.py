"""What `--set tracker.NAME=VALUE` can say, and what is kept of it for a training that goes on."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _split(value: object) -> object:
    return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value


class Options(BaseModel):
    """Options that all trackers share; each takes what it knows.

    Attributes:
        project: W&B's project, MLflow's experiment. name: of the run, for people. entity, group: W&B's.
        tags: W&B's and MLflow's. dir: the folder of local stores.
        log_checkpoints: keep the best and the last checkpoint as artifacts when the training ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    project: str = Field(default="scalebench", min_length=1)
    name: str | None = Field(default=None, min_length=1)
    entity: str | None = Field(default=None, min_length=1)
    group: str | None = Field(default=None, min_length=1)
    tags: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    dir: str = Field(default="tracking", min_length=1)
    log_checkpoints: bool = False


class Tracking(BaseModel):
    """The trackers of a training, as its folder of checkpoints remembers them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trackers: tuple[str, ...]
    options: Options
    id: str
    name: str
