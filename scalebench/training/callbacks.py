"""The user's own code at the joints of a training: `--callback module:Class` or `--callback file.py:Class`.

A callback is an object with any of the HOOKS as methods, each called with a Moment. All but `on_checkpoint` are called
on every rank: what is done with a sharded model is collective, and `moment.rank` tells who is to write. Hooks run
between rows of steps, never inside one, and their time is none of a step's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scalebench.adapters import resolve_name
from scalebench.adapters.importing import load_module, told
from scalebench.errors import UserError, did_you_mean

HOOKS = ("on_begin", "on_steps", "on_validation", "on_checkpoint", "on_end")
"""Before the first step; after each row of steps (`--log-every` of them, fewer before a validation or a checkpoint);
after a validation; on rank 0 alone, once a checkpoint is on disk; after all of that."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where a training stands when a hook is called.

    Attributes:
        step: optimizer steps behind it, of `steps`. rank, world_size: of this process.
        module: the model as its strategy has wrapped and sharded it. optimizer: this rank's.
        losses: this rank's, of each step since the last `on_steps`. metrics: of the last validation.
        checkpoint: for `on_checkpoint`, its folder.
    """

    step: int
    steps: int
    rank: int
    world_size: int
    module: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Sequence[float] = ()
    metrics: Mapping[str, float] | None = None
    checkpoint: Path | None = None


class Callbacks:
    """The callbacks of `names`, in their order. Raises UserError when one cannot be made."""

    def __init__(self, names: Sequence[str]) -> None:
        self._made = [(name, made(name)) for name in names]

    def __bool__(self) -> bool:
        return bool(self._made)

    def call(self, hook: str, moment: Moment) -> None:
        """Let each that has `hook` know of `moment`. Raises UserError, with the place, for what goes wrong there."""
        for name, callback in self._made:
            if hasattr(callback, hook):
                with told(f"{hook} of the callback {name}"):
                    getattr(callback, hook)(moment)


def resolved_callback(given: str) -> str:
    """`given` with its file's whole path. Raises UserError for one that cannot be made, or that has no hook."""
    if ":" not in given:
        raise UserError(f"--callback {given}: expected package.module:Class or path/to/file.py:Class.")
    name = resolve_name(given)
    callback = made(name)
    unknown = [hook for hook in dir(callback) if hook.startswith("on_") and hook not in HOOKS]
    if unknown:
        raise UserError(
            f"the callback {given} has {unknown[0]}, which is never called.{did_you_mean(unknown[0], HOOKS)} "
            f"Allowed: {', '.join(HOOKS)}."
        )
    if not any(hasattr(callback, hook) for hook in HOOKS):
        raise UserError(f"the callback {given} has no method that is ever called. Allowed: {', '.join(HOOKS)}.")
    return name


def made(name: str) -> Any:
    """What the class, or function, of `name` gives when it is called without arguments. Raises UserError."""
    place, _, kind = name.rpartition(":")
    module = load_module(place)
    if not callable(getattr(module, kind, None)):
        names = [other for other, value in vars(module).items() if callable(value)]
        raise UserError(f"{place} has no class {kind}.{did_you_mean(kind, names)}")
    with told(f"the callback {name}"):
        return getattr(module, kind)()
