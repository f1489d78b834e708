"""`--tracker` and `--set tracker.*` of `scalebench train`: from what was asked to trackers beside a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from scalebench.errors import UserError, did_you_mean
from scalebench.recipe import Recipe
from scalebench.records.record import Record
from scalebench.spec import RunSpec
from scalebench.trackers import TRACKERS, require_installed
from scalebench.trackers.base import Run
from scalebench.trackers.options import Options, Tracking

if TYPE_CHECKING:
    from scalebench.trackers.relay import Relay

REMEMBERED = "tracking.json"
"""In a folder of checkpoints, so that a training that goes on is tracked where it was."""


def tracking(names: Sequence[str], asked: Mapping[str, Any], folder: Path, *, resuming: bool) -> Tracking | None:
    """The trackers to use, remembered in `folder`; when `resuming`, those of then unless others are named. None: none.

    Raises UserError for unknown options, and for a tracker whose package is missing.
    """
    file = folder / REMEMBERED
    then = Tracking.model_validate_json(file.read_bytes()) if resuming and file.is_file() else None
    trackers = tuple(dict.fromkeys(names)) or (then.trackers if then else ())
    if not trackers:
        if asked:
            raise UserError(f"--set tracker.{next(iter(asked))} is for trackers. Add --tracker {'|'.join(TRACKERS)}.")
        return None
    options = options_of((then.options.model_dump() if then else {}) | dict(asked), trackers)
    require_installed(trackers)
    name = options.name or folder.name
    identity = then.id if then else f"{name}-{datetime.now():%Y%m%d-%H%M%S}".replace("/", "_")
    found = Tracking(trackers=trackers, options=options, id=identity, name=name)
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return found


def options_of(asked: Mapping[str, Any], trackers: Sequence[str]) -> Options:
    """What was `asked` of `trackers`. Raises UserError that says what is wrong with it."""
    try:
        options = Options.model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        name, allowed = str(first["loc"][0]), Options.model_fields
        if first["type"] == "extra_forbidden":
            raise UserError(
                f"--set tracker.{name}: there is no such option.{did_you_mean(name, allowed)} "
                f"Allowed: {', '.join(allowed)}."
            ) from None
        raise UserError(f"--set tracker.{name}={first['input']}: {first['msg']}.") from None
    if options.log_checkpoints and not any(TRACKERS[name].keeps_checkpoints for name in trackers):
        keepers = [name for name, known in TRACKERS.items() if known.keeps_checkpoints]
        raise UserError(f"{', '.join(trackers)} keep no checkpoints. Add --tracker {' or '.join(keepers)}.")
    return options


def tracked(
    asked: Tracking | None, spec: RunSpec, recipe: Recipe, first_step: int, tell: Callable[[Sequence[str]], None]
) -> AbstractContextManager[Relay | None]:
    """While inside, the trackers that were `asked` for, if any, take what their feed is told."""
    if asked is None:
        return nullcontext()
    from scalebench.trackers.relay import relaying

    parameters = dict(dotted({"spec": spec, "recipe": recipe}))
    run = Run(id=asked.id, name=asked.name, options=asked.options, parameters=parameters, first_step=first_step)
    return relaying(asked.trackers, run, lambda line: tell([line]))


def ended(relay: Relay | None, asked: Tracking | None, record: Record) -> list[str]:
    """Let the trackers finish what they have of `record`. What to type, or where to look, to see it."""
    if relay is None or asked is None:
        return []
    facts = record.training
    kept = [facts.best, facts.last] if facts and asked.options.log_checkpoints else []
    return relay.end(record.status, [Path(path) for path in dict.fromkeys(kept) if path])


def dotted(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """`spec.optimizer.learning_rate` and its value, for each value however deep."""
    for name, value in values.items():
        inner = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        if isinstance(inner, Mapping):
            yield from dotted(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}", inner
