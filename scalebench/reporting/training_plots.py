"""Trainings as pictures: the curves of those of one model on one set of data, and what each generated."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalebench.analysis.training import trainings
from scalebench.recipe import Recipe
from scalebench.records.record import Record
from scalebench.records.training import TrainingFacts

from .drawing import legend, titled_canvas
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from .text import plural

LOSS = "loss"
LOG_FROM = 20.0
"""As many times as large as the smallest value is the largest where the scale is logarithmic."""
COLOURS = (VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
MARKERS = "os^vDXP*"

Training = tuple[Record, Recipe, TrainingFacts]


def families(records: Iterable[Record]) -> dict[str, list[Training]]:
    """Trainings by model and data, which are what curves can be laid over each other of."""
    found: dict[str, list[Training]] = {}
    for record, recipe, facts in trainings(records):
        data = record.workload.data_name if record.workload else record.spec.data
        found.setdefault(f"{record.spec.workload} {record.spec.size} on {Path(data).name}", []).append(
            (record, recipe, facts)
        )
    return found


def curves(title: str, family: Sequence[Training]) -> Figure | None:
    """A panel for the loss and for each metric that decides something, over the samples trained on; None where nothing
    was validated."""
    names = [LOSS, *(name for name in followed(family) if name != LOSS)]
    if not any(facts.evaluations for _, _, facts in family):
        return None
    plot, axes = titled_canvas(["Training", title], len(names), sharey=False)
    for axis, name in zip(axes, names, strict=True):
        _draw(axis, name, family)
        if spread_out(axis):
            axis.set_yscale("log")
        axis.set_title(name)
        axis.set_xlabel("samples trained on")
    legend(plot, axes)
    return plot


def followed(family: Sequence[Training]) -> list[str]:
    """The metrics that decide something, each once."""
    asked = [
        name
        for _, recipe, _ in family
        for name in (
            recipe.monitor,
            recipe.target.metric if recipe.target else None,
            recipe.fid.metric if recipe.fid else None,
        )
    ]
    return list(dict.fromkeys(name for name in asked if name))


def spread_out(axis: Axes) -> bool:
    """Whether its values are positive and so far apart that on a straight scale most would lie on its edge."""
    values = np.concatenate([np.empty(0), *(np.asarray(line.get_ydata(), dtype=float) for line in axis.lines)])
    known = values[~np.isnan(values)]
    return bool(known.size and known.min() > 0 and known.max() > LOG_FROM * known.min())


def _draw(axis: Axes, name: str, family: Sequence[Training]) -> None:
    labels = told_apart(family)
    kinds = list(dict.fromkeys(labels))
    for (record, recipe, facts), label in zip(family, labels, strict=True):
        kind = kinds.index(label)
        colour, marker = COLOURS[kind % len(COLOURS)], MARKERS[kind % len(MARKERS)]
        known = [(one.samples, one.metrics[name]) for one in facts.evaluations if name in one.metrics]
        if known:
            axis.plot(*zip(*known, strict=True), color=colour, marker=marker, markersize=4, linewidth=1, label=label)
        if name == LOSS and len(family) == 1 and record.ranks:
            axis.plot(*_of_steps(record, facts), color=SKY, linewidth=0.8, zorder=1, label="each step")
        if recipe.target and recipe.target.metric == name:
            axis.axhline(recipe.target.value, color=GREY, linestyle="--", linewidth=1.2, label="target")


def _of_steps(record: Record, facts: TrainingFacts) -> tuple[list[int], list[float]]:
    """Samples behind each step of this part of a training, and the mean of the ranks' losses in it."""
    losses = [fmean(each) for each in zip(*(rank.losses for rank in record.ranks), strict=True)]
    samples = [record.spec.global_batch * (facts.first_step + step) for step in range(1, len(losses) + 1)]
    return samples, losses


def told_apart(family: Sequence[Training]) -> list[str]:
    """Of each training what it is that the others are not, but for the seed."""
    parts = [_said(record, recipe) for record, recipe, _ in family]
    differing = [column for column in zip(*parts, strict=True) if len(set(column)) > 1]
    return [", ".join(words) for words in zip(*differing, strict=True)] if differing else ["validation"] * len(family)


def _said(record: Record, recipe: Recipe) -> tuple[str, ...]:
    spec = record.spec
    ranks = plural(spec.world_size, "GPU" if spec.device == "cuda" else "process")
    return spec.strategy, ranks, spec.precision, f"rule {recipe.rule}", f"lr {recipe.base_learning_rate:g}"


def named(record: Record) -> str:
    """`jit tiny, ddp, 2 processes, fp32, seed 0`."""
    spec = record.spec
    ranks = plural(spec.world_size, "GPU" if spec.device == "cuda" else "process")
    return f"{spec.workload} {spec.size}, {spec.strategy}, {ranks}, {spec.precision}, seed {spec.seed}"


def copied_sheets(
    record: Record, facts: TrainingFacts, homes: Mapping[str, Path], folder: Path
) -> Iterator[tuple[str, str]]:
    """The first and the last picture of what was generated, copied into `folder`: title and file name of each.

    Pictures that are no longer beside their record are left out. Raises OSError.
    """
    home = homes.get(record.session)
    found = [sheet for sheet in facts.sheets if home and (home / sheet.file).is_file()]
    for sheet in {sheet.step: sheet for sheet in (*found[:1], *found[-1:])}.values():
        assert home is not None, "a sheet was found in it"
        name = f"samples-{record.session}-{record.spec.cell_id}-{sheet.step:08d}.png"
        shutil.copyfile(home / sheet.file, folder / name)
        yield f"{plural(sheet.samples, 'sample')} after {sheet.step} steps: {named(record)}", name
