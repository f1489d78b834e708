"""What the backends of a framework (Lightning's Fabric, Hugging Face's Accelerate) have in common.

A framework's backend wraps a raw one, so that their difference is what the framework costs. It attaches to the process
group and the ranks that exist. What it would put in the place of what was asked is refused before the run where that
can be known, and found out after it was prepared where not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import nn

from .base import Strategy
from .config import GradSync, TrainConfig
from .packages import unusable

Wrapper = TypeVar("Wrapper")

LAUNCHERS_OF_THEIR_OWN = ("ACCELERATE_", "FSDP_", "LT_")
"""How the variables begin by which `accelerate launch` and `fabric run` decide what the spec decides here."""


@dataclass(frozen=True, kw_only=True)
class Framework(Strategy):
    """A raw strategy under a framework's wrappers, precision plugin, backward pass and clipping."""

    raw: ClassVar[Strategy]
    """The strategy that it wraps, which the same run without the framework would have."""
    minimum_version: ClassVar[tuple[int, ...]]
    differs: ClassVar[tuple[str, ...]] = ()
    """What the framework does otherwise than the raw strategy whatever the run, one sentence each."""

    def unsupported_reason(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        assert self.needs is not None
        return (
            unusable(self.needs, self.minimum_version, f"'scalebench-suite[{self.needs}]'")
            or self.substitution(config, device_type, world_size)
            or self.raw.unsupported_reason(config, device_type, world_size)
        )

    def substitution(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        """What the framework would refuse, or do in the place of what is asked, and what to do instead; or None."""
        return None

    def unmatched(self, config: TrainConfig, device_type: str, world_size: int) -> tuple[str, ...]:
        if config.profile != "matched":
            return ()
        return (*self.raw.unmatched(config, device_type, world_size), *self.differs)

    @property
    def default_grad_sync(self) -> GradSync:  # type: ignore[override]  # as the strategy that it wraps
        return self.raw.default_grad_sync


@contextlib.contextmanager
def private_environment() -> Iterator[None]:
    """Inside, a framework sees and sets environment variables as it likes; after it they are as before.

    Those of the frameworks' own launchers are hidden. Both set the number of threads unless OMP_NUM_THREADS says it:
    it says what the ranks have.
    """
    before = dict(os.environ)
    for name in before:
        if name.startswith(LAUNCHERS_OF_THEIR_OWN):
            del os.environ[name]
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def required(module: nn.Module, wanted: type[Wrapper], framework: str) -> Wrapper:
    """`module`, which `framework` was to wrap into a `wanted`.

    Raises RuntimeError when it is none: a framework that cannot wrap may leave it out in silence.
    """
    if not isinstance(module, wanted):
        raise RuntimeError(f"{framework} was asked for {wanted.__name__} and made {type(module).__name__}")
    return module
