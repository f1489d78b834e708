"""A user's own model as a workload: `package.module:factory` or `path/to/file.py:factory` (docs/own-model.md).

Names are told apart and resolved here without importing torch; everything else imports the user's module.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scalebench.errors import UserError
from scalebench.strategies.config import OptimizerConfig, TrainConfig

if TYPE_CHECKING:
    from scalebench.workloads.base import Workload

Scalar = bool | int | float | str | None

SIZE = OWN_DATA = "own"
"""The one size that an own model has, and the name of the data that it brings along."""
DEFAULT_MICRO_BATCH = 8
BLOCKS = "blocks"
"""The option that names the repeated blocks of a model whose factory has no option of that name."""
CONTEXT = "context_length"
"""The option of a language model that says how many tokens a sample has."""
RESERVED = (BLOCKS, CONTEXT)
FORM = "package.module:factory or path/to/file.py:factory"
HEAVY = ("lightning", "pytorch_lightning", "torchvision", "transformers")
"""Packages that take a second or more to import: the fork server does so once for all ranks."""


def is_own(name: str) -> bool:
    """Whether the name of a workload is that of a user's own factory."""
    return ":" in name


def resolve_name(given: str) -> str:
    """`given` as a spec stores it: a file by its real path. Raises UserError for what is no name of a factory."""
    place, _, factory = given.rpartition(":")
    if not place or not all(part.isidentifier() for part in factory.replace("+", ".").split(".")):
        raise UserError(f"'{given}' names no factory. Give {FORM}.")
    if not is_file(place):
        return given
    path = os.path.realpath(os.path.expanduser(place))
    if not os.path.isfile(path):
        raise UserError(f"the file of '{given}' does not exist. Give {FORM}.")
    return f"{path}:{factory}"


def is_file(place: str) -> bool:
    """Whether what stands before the colon is a file rather than a module."""
    return place.endswith(".py") or os.sep in place


def source_sha256(name: str) -> str | None:
    """Of the file that holds the factory, so that a changed file is another cell; None for an installed package."""
    place = name.rpartition(":")[0]
    if is_file(place):
        return hashlib.sha256(Path(place).read_bytes()).hexdigest()
    from scalebench.adapters.importing import search_here

    search_here()
    found = importlib.util.find_spec(place.partition(".")[0]) and importlib.util.find_spec(place)
    origin = Path(found.origin) if found and found.origin and found.has_location else None
    installed = origin is None or "site-packages" in origin.parts
    return None if installed or origin is None else hashlib.sha256(origin.read_bytes()).hexdigest()


def resolve_options(name: str, asked: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Every plain option of the factory with its value. Raises UserError for an unknown one, or a value of another
    type."""
    from scalebench.adapters.factory import load_factory

    return load_factory(name).resolved(asked)


def create(name: str, options: Mapping[str, Scalar], seed: int = 0) -> Workload:
    """What the factory makes, as a workload. Raises UserError for whatever stands in the way.

    The last few are kept, since making one may take long: they are never changed.
    """
    return _created(name, json.dumps(options, sort_keys=True), seed)


@functools.lru_cache(maxsize=2)
def _created(name: str, options: str, seed: int) -> Workload:
    from scalebench.adapters.adapting import adapt

    return adapt(name, json.loads(options), seed)


def optimizer_of(name: str, options: Mapping[str, Scalar], seed: int = 0) -> OptimizerConfig | None:
    """The optimizer that the model brings along, as the one builder of all strategies makes it; None without one.

    Raises UserError when that builder cannot make it, and as `create` does.
    """
    from scalebench.adapters.own import OwnWorkload

    workload = create(name, options, seed)
    return workload.optimizer if isinstance(workload, OwnWorkload) else None


def unsupported_reason(
    workload: Workload, strategy: str, options: Mapping[str, object], config: TrainConfig
) -> str | None:
    """Why `strategy` cannot train this model, known before launch, and what to do; None when nothing speaks against
    it."""
    from scalebench.adapters.limits import reason_against
    from scalebench.adapters.own import OwnWorkload

    return reason_against(workload, strategy, options, config) if isinstance(workload, OwnWorkload) else None


def check(workload: Workload) -> None:
    """Run an own model's loss once, on two samples. Raises UserError when it cannot be trained."""
    from scalebench.adapters.own import OwnWorkload

    if isinstance(workload, OwnWorkload):
        _ = workload.inspection


def notes_of(workload: Workload) -> list[str]:
    """What of an own model is done in another way than its author wrote it, a sentence each."""
    from scalebench.adapters.own import OwnWorkload

    return workload.notes if isinstance(workload, OwnWorkload) else []


def preloads() -> list[str]:
    """What the fork server had better import too: the heavy packages that users' modules have imported here."""
    return [package for package in HEAVY if package in sys.modules]
