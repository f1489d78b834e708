"""What the plots share: the titled canvas, lines with intervals over ranks, the axes, the legend."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from scalebench.analysis.cells import Cell
from scalebench.stats.intervals import Estimate

from .experiments import Experiment, hardware
from .style import style
from .text import figure

DPI = 150
DODGE, SPREAD = 0.06, 0.4
"""Horizontal distance of two strategies at one number of ranks, and the most of all, as shares of a doubling."""

Read = Callable[[Cell], Estimate | None]
"""What a plot shows of a cell; None leaves the cell out."""


def canvas(
    experiment: Experiment, title: str, panels: int, height: float = 4.2, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with `panels` axes side by side; its title says what was measured and on what hardware."""
    return titled_canvas([title, experiment.title, hardware(experiment.cells[0])], panels, height, sharey)


def titled_canvas(
    lines: Sequence[str], panels: int, height: float = 4.2, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with `panels` axes side by side under a title of some `lines`."""
    width = 3.0 + 3.3 * panels
    plot = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    plot.suptitle("\n".join(part for line in lines for part in textwrap.wrap(line, int(11 * width))), fontsize=10)
    axes: list[Axes] = list(np.atleast_1d(plot.subplots(1, panels, sharey=sharey)))
    for axis in axes:
        axis.grid(color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return plot, axes


def by_precision(experiment: Experiment, read: Read) -> dict[str, list[Cell]]:
    """The cells of which `read` has a figure, by precision: a panel each."""
    found: dict[str, list[Cell]] = {}
    for cell in experiment.measured:
        if read(cell):
            found.setdefault(cell.precision, []).append(cell)
    return found


def draw_series(axis: Axes, experiment: Experiment, cells: Sequence[Cell], read: Read) -> None:
    """One line with intervals per strategy over ranks, each a little aside so that none hides another."""
    names = list(dict.fromkeys(experiment.names[cell] for cell in experiment.measured))
    dodge = min(DODGE, SPREAD / len(names))
    for place, name in enumerate(names):
        aside = 2.0 ** (dodge * (place - (len(names) - 1) / 2))
        points = [(c, estimate) for c in cells if experiment.names[c] == name and (estimate := read(c))]
        if points:
            _draw_line(axis, name, points, aside)
    _rank_axis(axis, experiment, cells)


def _draw_line(axis: Axes, name: str, points: Sequence[tuple[Cell, Estimate]], aside: float) -> None:
    look = style(points[0][0].spec.strategy, name)
    axis.errorbar(
        [cell.spec.world_size * aside for cell, _ in points],
        [estimate.value for _, estimate in points],
        yerr=_arms([estimate for _, estimate in points]),
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


def reach(cells: Sequence[Cell], read: Read) -> tuple[float, float]:
    """What an axis must show: every value, and its interval up to half and double of it; wider ones leave the panel."""
    estimates = [estimate for cell in cells if (estimate := read(cell))]
    low = min(max(e.value / 2, e.low if e.low is not None else e.value) for e in estimates)
    high = max(min(e.value * 2, e.high if e.high is not None else e.value) for e in estimates)
    return low, high


def _rank_axis(axis: Axes, experiment: Experiment, cells: Sequence[Cell]) -> None:
    """A logarithmic axis of ranks with a tick at each measured number and nowhere else."""
    ranks = sorted({cell.spec.world_size for cell in cells})
    axis.set_xscale("log", base=2)
    axis.set_xlim(ranks[0] / 1.3, ranks[-1] * 1.3)
    axis.xaxis.set_major_locator(FixedLocator(ranks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_xlabel("GPUs (log scale)" if experiment.unit == "GPU" else "CPU processes (log scale)")


def log_y_axis(axes: Sequence[Axes], low: float, high: float) -> None:
    """A shared logarithmic axis from `low` to `high` with round numbers on it, however short it is."""
    decades = range(int(np.floor(np.log10(low))), int(np.floor(np.log10(high))) + 1)
    sparse = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
    ticks = sparse if high / low > 20 else list(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(low, high))
    for axis in axes:
        axis.set_yscale("log")
        axis.set_ylim(low, high)
        axis.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: figure(y)))


def legend(plot: Figure, axes: Sequence[Axes]) -> None:
    """One legend beside the panels, with each label once."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    plot.legend(found.values(), found.keys(), loc="outside right center", fontsize=8, frameon=False)
