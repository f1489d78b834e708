"""What a checkpoint costs under each strategy: the stall, the time until it is on disk, its size, and loading it.

    python -m tests.benchmarks.checkpoint_cost [--strategy fsdp,...] [--contents full] [--folder DIR]

Each strategy trains gpt (some 9 million parameters, fp32, AdamW) on two processes (`single` on one), and saves three
times, a dozen steps apart: once at once, once asynchronously through /dev/shm; then it takes up its last checkpoint.
Medians of the three. Under three minutes on two cores.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import get_args

import click

from scalebench.recipe import Contents
from scalebench.records.training import Save, TrainingFacts
from tests.benchmarks.exact_resume import STRATEGIES, table
from tests.distributed.test_training import SMALL, facts, recipe, small, train

SIZE = SMALL | {"num_layers": 3, "hidden_size": 384, "num_heads": 6, "context_length": 16, "vocab_size": 8192}
SAVE_EVERY = 12
STEPS = 3 * SAVE_EVERY
HEAD = ("strategy", "MB", "stall s", "stall s, async", "on disk after s", "on disk after s, async", "load s")


@click.command(help=__doc__)
@click.option("--strategy", "strategies", default=",".join(STRATEGIES), show_default=True)
@click.option("--contents", type=click.Choice(get_args(Contents)[:2]), default="full", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="On the disk to be measured. Default: a temporary one.")
def main(strategies: str, contents: str, folder: Path | None) -> None:
    rows = []
    for name in strategies.split(","):
        with tempfile.TemporaryDirectory(prefix="checkpoint-cost-", dir=folder) as place:
            rows.append(row(name, contents, Path(place)))
    print(table(HEAD, rows))


def row(strategy: str, contents: str, folder: Path) -> list[str]:
    """One strategy, both ways."""
    once, carried = (trained(strategy, contents, folder / str(way), save_async=way) for way in (False, True))
    loaded = trained(strategy, contents, folder / "False", resume=folder / "False" / f"step-{STEPS:08d}")
    shutil.rmtree(folder)
    folder.mkdir()
    return [
        strategy,
        f"{once.saves[-1].file_bytes / 1e6:,.0f}",
        *(f"{median(save.seconds for save in found.saves):.2f}" for found in (once, carried)),
        *(f"{median(map(durable, found.saves)):.2f}" for found in (once, carried)),
        f"{loaded.load_seconds or 0:.2f}",
    ]


def durable(save: Save) -> float:
    assert save.durable_seconds is not None
    return save.durable_seconds


def trained(
    strategy: str, contents: str, folder: Path, *, save_async: bool = False, resume: Path | None = None
) -> TrainingFacts:
    """All steps and three checkpoints, or one step from a checkpoint."""
    spec = small(strategy, 1 if strategy == "single" else 2, workload_options=SIZE, ema_decay=None)
    periods = {"steps_per_epoch": 100, "val_every": 100, "val_batches": 1, "save_every": SAVE_EVERY}
    steps = STEPS + 1 if resume else STEPS
    asked = recipe(steps=steps, schedule="constant", keep_best=0, contents=contents, save_async=save_async, **periods)
    return facts(train(folder, spec, asked, resume=resume))


if __name__ == "__main__":
    main()
