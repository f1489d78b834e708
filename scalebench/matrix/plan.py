"""The order of runs: every cell's repeats in randomised blocks."""

from __future__ import annotations

import random
from collections.abc import Sequence

from scalebench.errors import UserError
from scalebench.matrix.ranks import BASELINE
from scalebench.spec import PlannedRun, RunSpec

DEFAULT_REPEATS = 3
MOST_RUNS = 100_000
"""More are taken for a mistake: they would take weeks."""


def plan(
    specs: Sequence[RunSpec], repeats: int, seed: int, *, parity: bool = False, loader_rates: bool = False
) -> list[PlannedRun]:
    """Every run of `specs` in randomised blocks: each block holds one repeat of every cell, shuffled by `seed`.

    So that drift of the machine falls on all cells alike. With `parity`, one parity check per cell comes before them:
    first that the same was trained, then how fast. Raises UserError for more runs than anybody means.
    """
    if len(specs) * repeats > MOST_RUNS:
        raise UserError(
            f"{len(specs)} cells of {repeats} repeats make more than {MOST_RUNS} runs. Ask for fewer: --repeats."
        )
    checks = [PlannedRun(spec=spec, kind="parity") for spec in specs if parity and spec.strategy != BASELINE]
    shuffle = random.Random(seed).sample
    blocks = (shuffle(list(specs), len(specs)) for _ in range(repeats))
    return checks + [
        PlannedRun(spec=spec, repeat=repeat, loader_rates=loader_rates)
        for repeat, block in enumerate(blocks)
        for spec in block
    ]
