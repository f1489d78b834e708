"""Trainings that are killed and go on, held against ones that were left alone.

    python -m tests.benchmarks.exact_resume [--steps 2000] [--strategy fsdp,...]

The first table: a training of gpt, tiny and with dropout, in fp32, is killed by SIGKILL as soon as its checkpoint in
the middle is whole, and resumed; every loss of every rank after that is compared, bit by bit. The second: a checkpoint
of two ranks goes on as other ranks and strategies; the largest relative difference of a step's mean loss, within a
tolerance that grows from rounding in another order. About eight minutes on two cores.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from scalebench.records.record import Record
from scalebench.training.manifest import MANIFEST, checkpoint_name, checkpoints_in
from tests.distributed.test_training import SMALL, facts, rank_killed_once, recipe, small, train

STRATEGIES = ("single", "ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
TINY = SMALL | {"hidden_size": 16, "context_length": 8}
OTHERWISE = [("fsdp", "single", 1), ("fsdp", "fsdp", 1), ("fsdp", "fsdp", 4), ("fsdp", "ddp", 2), ("ddp", "fsdp", 4)]
OTHERWISE_STEPS = 200
TOLERANCE = 1e-5
"""Of a loss: 100 steps amplify what sums in another order (some 1e-7) a little."""


@click.command(help=__doc__)
@click.option("--steps", default=2000, show_default=True)
@click.option("--strategy", "strategies", default=",".join(STRATEGIES), show_default=True)
def main(steps: int, strategies: str) -> None:
    with tempfile.TemporaryDirectory(prefix="exact-resume-") as folder:
        exact = [row(name, steps, Path(folder) / name) for name in strategies.split(",")]
        print(table(("strategy", "steps", "killed, resumed at", "losses compared", "that differ"), exact))
        others = [otherwise(*each, Path(folder)) for each in OTHERWISE]
        print(table(("checkpoint of", "goes on as", "steps compared", "largest difference"), others))
    sys.exit(any(line[-1] != "0" for line in exact) or any(float(line[-1]) > TOLERANCE for line in others))


def row(strategy: str, steps: int, folder: Path) -> list[str]:
    """One strategy: straight, and killed in the middle."""
    spec = small(strategy, 1 if strategy == "single" else 2, workload_options=TINY, steps=steps)
    asked = recipe(steps=steps, steps_per_epoch=steps, val_every=steps, save_every=steps // 2, log_every=50)
    straight = train(folder / "straight", spec, asked)
    facts(straight)
    with rank_killed_once((folder / "killed" / checkpoint_name(steps // 2) / MANIFEST).exists):
        killed = train(folder / "killed", spec, asked)
    last = checkpoints_in(folder / "killed")[-1]
    if killed.status == "ok":
        raise RuntimeError(f"{strategy} came to its end before it was killed: give more --steps")
    resumed = train(folder / "killed", spec, asked, resume=last)
    first = facts(resumed).first_step
    differing = [before != after for before, after in pairs(straight, resumed, first)]
    return [strategy, f"{steps:,}", f"{first:,}", f"{len(differing):,}", str(sum(differing))]


def pairs(straight: Record, resumed: Record, first: int) -> Iterator[tuple[float, float]]:
    """Each loss of each rank after step `first`, of both."""
    for before, after in zip(straight.ranks, resumed.ranks, strict=True):
        yield from zip(before.losses[first:], after.losses, strict=True)


def otherwise(then: str, now: str, ranks: int, folder: Path) -> list[str]:
    """A checkpoint of two ranks under `then`, taken up by `ranks` ranks under `now`."""
    options = {"workload_options": TINY | {"dropout": 0.0}, "steps": OTHERWISE_STEPS}
    half = OTHERWISE_STEPS // 2
    periods = {"steps_per_epoch": OTHERWISE_STEPS, "val_every": half, "save_every": half, "log_every": 50}
    asked = recipe(steps=OTHERWISE_STEPS, keep_best=0, **periods)
    name = f"{then}-{now}-{ranks}"
    straight = train(
        folder / name, small(then, 2, accumulation=2, **options), asked.model_copy(update={"keep_best": 9})
    )
    checkpoint = folder / name / checkpoint_name(half)
    resumed = train(
        folder / f"{name}-on", small(now, ranks, accumulation=4 // ranks, **options), asked, resume=checkpoint
    )
    facts(resumed)
    found = [abs(before - after) / before for before, after in zip(means(straight)[half:], means(resumed), strict=True)]
    return [f"{then} on 2", f"{now} on {ranks}", str(len(found)), f"{max(found):.1e}"]


def means(record: Record) -> list[float]:
    """The mean loss of each step over the ranks."""
    return [sum(losses) / len(losses) for losses in zip(*(rank.losses for rank in record.ranks), strict=True)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
