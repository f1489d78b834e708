"""Random numbers of users' code, which draws them from the global generators: the same for the same seed, anywhere."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from scalebench.strategies.construct import stable_seed


@contextlib.contextmanager
def kept_apart() -> Iterator[None]:
    """Leave the CPU's global generators as they were, whatever is drawn inside."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


def seed_all(*parts: object) -> None:
    """Seed the CPU's global generators from `parts` alone."""
    number = stable_seed(":".join(map(str, parts)))
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)
