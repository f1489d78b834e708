"""The report's plots: throughput and efficiency over ranks, memory, and what precision gains.

Drawn with Agg and matplotlib's own defaults whatever the user's settings are, without dates: equal cells, equal bytes.
Lines join measured points only, and an interval is drawn wherever there is one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.style import context as style_context
from matplotlib.ticker import FuncFormatter

from scalebench.analysis.cells import Cell
from scalebench.analysis.memory import peak
from scalebench.analysis.precision import precision_gain
from scalebench.analysis.scaling import BASELINE, against_single
from scalebench.stats.intervals import Estimate

from .drawing import by_precision, canvas, draw_series, legend, log_y_axis, reach
from .experiments import Experiment
from .style import GREY, HATCHES, style
from .text import binary_unit, figure, plural

CLAIMED_SPEED, CLAIMED_MEMORY = 1.5, 0.5
"""What the guides claim of 16 bit over fp32."""


def write_plots(experiment: Experiment, folder: Path) -> list[tuple[str, str]]:
    """Draw what `experiment` has data for into `folder`; title and file name of each plot. Raises OSError."""
    with drawing_settings():
        plots = {name: plot for name, draw in PLOTS.items() if (plot := draw(experiment))}
        return [
            (f"{name.capitalize()}: {experiment.title}", save(plot, folder, f"{experiment.slug}-{name}"))
            for name, plot in plots.items()
        ]


@contextlib.contextmanager
def drawing_settings() -> Iterator[None]:
    """matplotlib's own defaults inside, whatever the user's settings are."""
    with mpl.rc_context(), style_context("default"):
        yield


def save(plot: Figure, folder: Path, name: str) -> str:
    """Write `plot` into `folder`, without a date, and return its file's name. Raises OSError."""
    FigureCanvasAgg(plot)
    plot.savefig(folder / f"{name}.png", metadata={"Software": None})
    return f"{name}.png"


def throughput_plot(experiment: Experiment) -> Figure | None:
    """Items per second over ranks, both logarithmic so that ideal scaling is straight; one panel per precision."""
    panels = by_precision(experiment, _throughput)
    if not panels:
        return None
    plot, axes = canvas(experiment, "Throughput", len(panels))
    cells = [cell for members in panels.values() for cell in members]
    low, high = reach(cells, _throughput)
    for axis, (precision, members) in zip(axes, panels.items(), strict=True):
        draw_series(axis, experiment, members, _throughput)
        ideal = _ideal_throughput(members)
        if len(ideal) > 1:
            axis.plot(*zip(*ideal, strict=True), **_reference("--"), label=f"ideal: {BASELINE} × ranks")
        high = max([high, *(rate for _, rate in ideal)])
        axis.set_title(precision)
    log_y_axis(axes, low / 1.15, high * 1.15)
    axes[0].set_ylabel(f"{experiment.cells[0].item} / s (log scale)")
    legend(plot, axes)
    return plot


def efficiency_plot(experiment: Experiment) -> Figure | None:
    """Weak or strong efficiency against `single` over ranks, with the ideal line; one panel per precision."""

    def read(cell: Cell) -> Estimate | None:
        return against_single(cell, experiment.cells).efficiency.estimate

    panels = by_precision(experiment, read)
    cells = [cell for members in panels.values() for cell in members]
    if all(cell.spec.world_size == 1 for cell in cells):
        return None
    plot, axes = canvas(experiment, f"{experiment.cells[0].spec.scaling.capitalize()} scaling efficiency", len(panels))
    for axis, (precision, members) in zip(axes, panels.items(), strict=True):
        draw_series(axis, experiment, members, read)
        axis.axhline(1, **_reference("--"), label="ideal")
        axis.set_title(precision)
    axes[0].set_ylim(0, 1.08 * max(1, reach(cells, read)[1]))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f}%"))
    axes[0].set_ylabel(f"efficiency against {BASELINE} on 1 {experiment.unit}")
    legend(plot, axes)
    return plot


def memory_plot(experiment: Experiment) -> Figure | None:
    """Peak memory of the fullest rank as bars: one panel per number of ranks, a bar per strategy and precision."""
    peaks = {cell: max(values) for cell in experiment.measured if (values := cell.values(peak))}
    if not peaks:
        return None
    counts = sorted({cell.spec.world_size for cell in peaks})
    rows = _rows(experiment, list(peaks))
    what = "Peak memory allocated" if experiment.unit == "GPU" else "Peak memory held by tensors"
    plot, axes = canvas(experiment, what, len(counts), height=1.4 + 0.24 * len(rows))
    unit, scale = binary_unit(max(peaks.values()))
    for axis, count in zip(axes, counts, strict=True):
        for cell, value in peaks.items():
            if cell.spec.world_size == count:
                _bar(axis, experiment, cell, rows.index(_row(experiment, cell)), value / scale)
        axis.set_title(plural(count, experiment.unit))
        axis.set_xlabel(f"{unit} per {experiment.unit}")
        axis.set_xlim(0, 1.18 * max(peaks.values()) / scale)
    axes[0].set_yticks(range(len(rows)), [f"{name} {precision}" for name, precision in rows], fontsize=8)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    return plot


def precision_plot(experiment: Experiment) -> Figure | None:
    """Speed and peak memory of each other precision over fp32 of the same cell, over ranks, with the guides' claims."""

    def speed(cell: Cell) -> Estimate | None:
        gain = precision_gain(cell, experiment.cells)
        return gain.speedup.estimate if gain else None

    def memory(cell: Cell) -> Estimate | None:
        gain = precision_gain(cell, experiment.cells)
        return gain.memory_ratio.estimate if gain else None

    panels = [
        (f"{precision}: {what}", cells, read, claim)
        for what, read, claim in (
            ("speed over fp32", speed, CLAIMED_SPEED),
            ("peak memory over fp32", memory, CLAIMED_MEMORY),
        )
        for precision, cells in by_precision(experiment, read).items()
    ]
    if not panels:
        return None
    plot, axes = canvas(experiment, "Gain over fp32", len(panels), sharey=False)
    for axis, (title, cells, read, claim) in zip(axes, panels, strict=True):
        draw_series(axis, experiment, cells, read)
        axis.axhline(1, **_reference("--"), label="same as fp32")
        axis.axhline(claim, **_reference(":"), label="guides' claim for 16 bit")
        axis.set_title(title)
        axis.set_ylim(0, 1.08 * max(1, claim, reach(cells, read)[1]))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
    legend(plot, axes)
    return plot


PLOTS: dict[str, Callable[[Experiment], Figure | None]] = {
    "throughput": throughput_plot,
    "efficiency": efficiency_plot,
    "memory": memory_plot,
    "precision": precision_plot,
}


def _throughput(cell: Cell) -> Estimate | None:
    return cell.throughput


def _ideal_throughput(cells: Sequence[Cell]) -> list[tuple[int, float]]:
    """Each number of ranks with `single`'s throughput times it, where `single` was measured."""
    baseline = next((c.throughput for c in cells if c.spec.strategy == BASELINE and c.spec.world_size == 1), None)
    return [(count, baseline.value * count) for count in sorted({c.spec.world_size for c in cells})] if baseline else []


def _reference(linestyle: str) -> dict[str, Any]:
    """The look of a line that is no measurement."""
    return {"color": GREY, "linestyle": linestyle, "linewidth": 1.2, "zorder": 1}


def _rows(experiment: Experiment, cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """The rows of a bar chart: strategies in the order of the tables, the precisions of each together."""
    names, precisions = list(dict.fromkeys(experiment.names.values())), list(HATCHES)
    return sorted({_row(experiment, c) for c in cells}, key=lambda r: (names.index(r[0]), precisions.index(r[1])))


def _row(experiment: Experiment, cell: Cell) -> tuple[str, str]:
    return experiment.names[cell], cell.precision


def _bar(axis: Axes, experiment: Experiment, cell: Cell, row: int, value: float) -> None:
    look = style(cell.spec.strategy, experiment.names[cell])
    axis.barh(row, value, color=look.color, alpha=0.75, hatch=HATCHES[cell.precision], edgecolor="white", height=0.8)
    axis.text(value, row, f" {figure(value, 3)}", va="center", fontsize=8)
