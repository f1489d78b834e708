"""The report's plots: throughput and efficiency over ranks, memory, and what precision gains.

Drawn with Agg and matplotlib's own defaults whatever the user's settings are, without dates: equal cells, equal bytes.
Lines join measured points only, and an interval is drawn wherever there is one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.style import context as style_context
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from scalebench.analysis.cells import Cell
from scalebench.analysis.memory import peak
from scalebench.analysis.precision import precision_gain
from scalebench.analysis.scaling import BASELINE, against_single
from scalebench.stats.intervals import Estimate

from .experiments import Experiment, hardware
from .style import GREY, HATCHES, style
from .text import figure, size

DPI = 150
DODGE, SPREAD = 0.06, 0.4
"""Horizontal distance of two strategies at one number of ranks, and the most of all, as shares of a doubling."""

Read = Callable[[Cell], Estimate | None]


def write_plots(experiment: Experiment, folder: Path) -> list[tuple[str, str]]:
    """Draw what `experiment` has data for into `folder`; title and file name of each plot. Raises OSError."""
    drawn = []
    with mpl.rc_context(), style_context("default"):
        for name, draw in PLOTS.items():
            plot = draw(experiment)
            if plot is not None:
                file_name = f"{experiment.slug}-{name}.png"
                FigureCanvasAgg(plot)
                plot.savefig(folder / file_name, metadata={"Software": None})
                drawn.append((f"{name.capitalize()}: {experiment.title}", file_name))
    return drawn


def throughput_plot(experiment: Experiment) -> Figure | None:
    """Items per second over ranks, both logarithmic so that ideal scaling is straight; one panel per precision."""
    panels = _panels(experiment, lambda cell: cell.throughput)
    if not panels:
        return None
    plot, axes = _figure(experiment, "Throughput", len(panels))
    for axis, (precision, cells) in zip(axes, panels.items(), strict=True):
        _series(axis, experiment, cells, lambda cell: cell.throughput)
        _ideal_throughput(axis, cells)
        _rank_axis(axis, experiment, cells)
        axis.set_yscale("log")
        axis.set_title(precision)
    _shared_log_ticks(axes)
    axes[0].set_ylabel(f"{experiment.cells[0].item} / s (log scale)")
    _legend(plot, axes)
    return plot


def efficiency_plot(experiment: Experiment) -> Figure | None:
    """Weak or strong efficiency against `single` over ranks, with the ideal line; one panel per precision."""

    def read(cell: Cell) -> Estimate | None:
        return against_single(cell, experiment.cells).efficiency.estimate

    panels = _panels(experiment, read)
    if not panels or all(cell.spec.world_size == 1 for cells in panels.values() for cell in cells):
        return None
    plot, axes = _figure(experiment, f"{experiment.cells[0].spec.scaling.capitalize()} scaling efficiency", len(panels))
    for axis, (precision, cells) in zip(axes, panels.items(), strict=True):
        _series(axis, experiment, cells, read)
        axis.axhline(1, color=GREY, linestyle="--", linewidth=1, label="ideal", zorder=1)
        _rank_axis(axis, experiment, cells)
        axis.set_title(precision)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f}%"))
    top = max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(0, max(1.08, top))
    axes[0].set_ylabel(f"efficiency against {BASELINE} on 1 {experiment.unit}")
    _legend(plot, axes)
    return plot


def memory_plot(experiment: Experiment) -> Figure | None:
    """Peak memory of the fullest rank as bars: one panel per number of ranks, a bar per strategy and precision."""
    cells = [cell for cell in experiment.measured if cell.values(peak)]
    if not cells:
        return None
    counts = sorted({cell.spec.world_size for cell in cells})
    rows = _rows(experiment, cells)
    what = "Peak memory allocated" if experiment.unit == "GPU" else "Peak memory held by tensors"
    plot, axes = _figure(experiment, what, len(counts), height=1.4 + 0.24 * len(rows))
    widest = max(max(cell.values(peak)) for cell in cells)
    unit, scale = size(widest).split()[1], max(1.0, 1024.0 ** int(np.log(widest) / np.log(1024)))
    for axis, count in zip(axes, counts, strict=True):
        for cell in (cell for cell in cells if cell.spec.world_size == count):
            _bar(axis, experiment, cell, rows.index(_row(experiment, cell)), max(cell.values(peak)) / scale)
        axis.set_title(_ranks(experiment, count))
        axis.set_xlabel(f"{unit} per {experiment.unit}")
        axis.set_xlim(0, 1.18 * widest / scale)
        _name_rows(axis, [f"{name} {precision}" for name, precision in rows])
    for axis in axes[1:]:
        axis.tick_params(labelleft=False)
    return plot


def precision_plot(experiment: Experiment) -> Figure | None:
    """Speed and peak memory of each other precision over fp32 of the same cell, over ranks, with the guides' claims."""

    def speed(cell: Cell) -> Estimate | None:
        gain = precision_gain(cell, experiment.cells)
        return gain.speedup.estimate if gain else None

    def memory(cell: Cell) -> Estimate | None:
        gain = precision_gain(cell, experiment.cells)
        return gain.memory_ratio.estimate if gain else None

    measures = (("speed over fp32", speed, 1.5), ("peak memory over fp32", memory, 0.5))
    panels = [
        (f"{precision}: {what}", cells, read, claim)
        for what, read, claim in measures
        for precision, cells in _panels(experiment, read).items()
    ]
    if not panels:
        return None
    plot, axes = _figure(experiment, "Gain over fp32", len(panels), sharey=False)
    for axis, (title, cells, read, claim) in zip(axes, panels, strict=True):
        _series(axis, experiment, cells, read)
        axis.axhline(1, color=GREY, linestyle="--", linewidth=1, label="same as fp32", zorder=1)
        axis.axhline(claim, color=GREY, linestyle=":", linewidth=1.5, label="guides' claim", zorder=1)
        _rank_axis(axis, experiment, cells)
        axis.set_title(title)
        axis.set_ylim(0, 1.08 * axis.get_ylim()[1])
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
    _legend(plot, axes)
    return plot


PLOTS: dict[str, Callable[[Experiment], Figure | None]] = {
    "throughput": throughput_plot,
    "efficiency": efficiency_plot,
    "memory": memory_plot,
    "precision": precision_plot,
}


def _figure(
    experiment: Experiment, title: str, panels: int, height: float = 4.2, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A titled figure with `panels` axes side by side; the title says what was measured and on what hardware."""
    width = 3.0 + 3.3 * panels
    plot = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    lines = [title, experiment.title, hardware(experiment.cells[0])]
    plot.suptitle("\n".join(wrapped for line in lines for wrapped in textwrap.wrap(line, int(11 * width))), fontsize=10)
    axes: list[Axes] = list(np.atleast_1d(plot.subplots(1, panels, sharey=sharey)))
    for axis in axes:
        axis.grid(color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return plot, axes


def _panels(experiment: Experiment, read: Read) -> dict[str, list[Cell]]:
    """The cells for which `read` has a figure, by precision."""
    panels: dict[str, list[Cell]] = {}
    for cell in experiment.measured:
        if read(cell):
            panels.setdefault(cell.precision, []).append(cell)
    return panels


def _series(axis: Axes, experiment: Experiment, cells: Sequence[Cell], read: Read) -> None:
    """One line with intervals per strategy over ranks, each a little aside so that none hides another."""
    names = list(dict.fromkeys(experiment.names[cell] for cell in experiment.measured))
    dodge = min(DODGE, SPREAD / len(names))
    for place, name in enumerate(names):
        mine = [cell for cell in cells if experiment.names[cell] == name]
        if not mine:
            continue
        estimates = [estimate for cell in mine if (estimate := read(cell))]
        ranks = np.array([cell.spec.world_size for cell in mine])
        aside = 2.0 ** (dodge * (place - (len(names) - 1) / 2))
        look = style(mine[0].spec.strategy, name)
        axis.errorbar(
            ranks * aside,
            [estimate.value for estimate in estimates],
            yerr=_arms(estimates),
            color=look.color,
            marker=look.marker,
            linestyle=look.line,
            markersize=5,
            linewidth=1.2,
            capsize=3,
            label=name,
        )


def _arms(estimates: Sequence[Estimate]) -> Any:
    """Lengths of the intervals' arms, shape (2, n); NaN, which draws none, where there is none."""
    below = [e.value - e.low if e.low is not None else np.nan for e in estimates]
    above = [e.high - e.value if e.high is not None else np.nan for e in estimates]
    return np.array([below, above])


def _ideal_throughput(axis: Axes, cells: Sequence[Cell]) -> None:
    """`single`'s throughput times the number of ranks, where it was measured."""
    baseline = next((c.throughput for c in cells if c.spec.strategy == BASELINE and c.spec.world_size == 1), None)
    ranks = sorted({cell.spec.world_size for cell in cells})
    if baseline and len(ranks) > 1:
        ideal = [baseline.value * count for count in ranks]
        axis.plot(ranks, ideal, color=GREY, linestyle="--", linewidth=1, label=f"ideal: {BASELINE} × ranks", zorder=1)


def _rank_axis(axis: Axes, experiment: Experiment, cells: Sequence[Cell]) -> None:
    """A logarithmic axis of ranks with a tick at each measured number and nowhere else."""
    ranks = sorted({cell.spec.world_size for cell in cells})
    axis.set_xscale("log", base=2)
    axis.set_xlim(ranks[0] / 1.3, ranks[-1] * 1.3)
    axis.xaxis.set_major_locator(FixedLocator(ranks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_xlabel("GPUs (log scale)" if experiment.unit == "GPU" else "CPU processes (log scale)")


def _shared_log_ticks(axes: Sequence[Axes]) -> None:
    """Round numbers on the shared logarithmic axis, however short it is."""
    low, high = axes[0].get_ylim()
    low, high = low / 1.05, high * 1.05
    decades = range(int(np.floor(np.log10(low))), int(np.log10(high)) + 1)
    sparse = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
    ticks = sparse if high / low > 20 else list(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(low, high))
    axes[0].set_ylim(low, high)
    for axis in axes:
        axis.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: figure(y)))


def _rows(experiment: Experiment, cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """The rows of a bar chart, strategies together, in the order of the tables."""
    names = list(dict.fromkeys(experiment.names[cell] for cell in experiment.measured))
    return sorted(
        {_row(experiment, c) for c in cells}, key=lambda row: (names.index(row[0]), list(HATCHES).index(row[1]))
    )


def _row(experiment: Experiment, cell: Cell) -> tuple[str, str]:
    return experiment.names[cell], cell.precision


def _bar(axis: Axes, experiment: Experiment, cell: Cell, row: int, value: float) -> None:
    look = style(cell.spec.strategy, experiment.names[cell])
    axis.barh(row, value, color=look.color, alpha=0.75, hatch=HATCHES[cell.precision], edgecolor="white", height=0.8)
    axis.text(value, row, f" {figure(value, 3)}", va="center", fontsize=8)


def _name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Rows from the top down."""
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)


def _ranks(experiment: Experiment, count: int) -> str:
    word = experiment.unit if count == 1 else {"GPU": "GPUs"}.get(experiment.unit, "processes")
    return f"{count} {word}"


def _legend(plot: Figure, axes: Sequence[Axes]) -> None:
    """One legend beside the panels, with each label once."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    plot.legend(found.values(), found.keys(), loc="outside right center", fontsize=8, frameon=False)
