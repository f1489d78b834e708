"""Trainings as pictures: their curves over the steps, and what they generated, beside them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalebench.recipe import Recipe
from scalebench.records.record import Record
from scalebench.records.training import TrainingFacts

from .drawing import titled_canvas
from .style import BLUE, GREY, VERMILION
from .text import plural

LOSS = "loss"


def named(record: Record) -> str:
    """`jit tiny, ddp, 2 processes, fp32, seed 0`."""
    spec = record.spec
    ranks = plural(spec.world_size, "GPU" if spec.device == "cuda" else "process")
    return f"{spec.workload} {spec.size}, {spec.strategy}, {ranks}, {spec.precision}, seed {spec.seed}"


def curves(record: Record, recipe: Recipe, facts: TrainingFacts) -> Figure | None:
    """The loss of every step and of every validation, and what else is monitored or aimed at, a panel each; None of a
    training that made no step."""
    if not record.ranks or not record.ranks[0].losses:
        return None
    names = [LOSS, *(name for name in followed(recipe) if name != LOSS)]
    plot, axes = titled_canvas(["Training", named(record)], len(names), sharey=False)
    for axis, name in zip(axes, names, strict=True):
        if name == LOSS:
            _draw_training(axis, record, facts)
        _draw_validations(axis, facts, name)
        if recipe.target and recipe.target.metric == name:
            axis.axhline(recipe.target.value, color=GREY, linestyle="--", linewidth=1.2, label="target")
        axis.set_title(name)
        axis.set_xlabel("optimizer steps")
        axis.legend(fontsize=8, frameon=False)
    return plot


def followed(recipe: Recipe) -> list[str]:
    """The metrics that decide something, each once."""
    asked = [recipe.monitor, recipe.target.metric if recipe.target else None, recipe.fid.metric if recipe.fid else None]
    return list(dict.fromkeys(name for name in asked if name))


def _draw_training(axis: Axes, record: Record, facts: TrainingFacts) -> None:
    """The mean of the ranks' losses of each step of this part of the training."""
    losses = [fmean(each) for each in zip(*(rank.losses for rank in record.ranks), strict=True)]
    steps = range(facts.first_step + 1, facts.first_step + len(losses) + 1)
    axis.plot(steps, losses, color=BLUE, alpha=0.5, linewidth=0.8, label="each step")


def _draw_validations(axis: Axes, facts: TrainingFacts, name: str) -> None:
    known = [(one.step, one.metrics[name]) for one in facts.evaluations if name in one.metrics]
    if known:
        axis.plot(
            *zip(*known, strict=True), color=VERMILION, marker="o", markersize=4, linewidth=1.2, label="validation"
        )


def copied_sheets(
    record: Record, facts: TrainingFacts, homes: Mapping[str, Path], folder: Path, slug: str
) -> Iterator[tuple[str, str]]:
    """The first and the last picture of what was generated, copied into `folder`: title and file name of each.

    Pictures that are no longer beside their record are left out. Raises OSError.
    """
    home = homes.get(record.session)
    found = [sheet for sheet in facts.sheets if home and (home / sheet.file).is_file()]
    for sheet in {sheet.step: sheet for sheet in (*found[:1], *found[-1:])}.values():
        assert home is not None, "a sheet was found in it"
        name = f"{slug}-samples-{sheet.step:08d}.png"
        shutil.copyfile(home / sheet.file, folder / name)
        yield f"{plural(sheet.samples, 'sample')} after {sheet.step} steps: {named(record)}", name
