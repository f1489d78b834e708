"""Plots of what the machine can do over size: bandwidth of collectives and copies, rate of matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from scalebench.analysis.probe import copies, matmul_sizes, messages
from scalebench.records.probe import Probe
from scalebench.stats.spread import Spread

from .drawing import legend, titled_canvas
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from .text import plural, size

GIGA = 1e9
LOOKS = tuple(zip((BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY), "s^DvPXoh", strict=True))

Points = Sequence[tuple[int, Spread]]
"""Size and rate."""


def probe_plots(probes: Sequence[Probe], hardware: str) -> dict[str, Figure]:
    """Figures by name, of probes of one machine, one panel per number of ranks; those that have something to show."""
    drawn = {
        "collectives": _plot(probes, _collectives, "Bandwidth of collectives", hardware, "payload", "GB/s"),
        "matmul": _plot(probes, _matmul, "Rate of matrix products of one rank", hardware, "rows", "GFLOP/s"),
        "copies": _plot(probes, _copies, "Copies between host and device", hardware, "payload", "GB/s"),
    }
    return {name: plot for name, plot in drawn.items() if plot is not None}


def _collectives(probe: Probe) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for kind in dict.fromkeys(facts.kind for facts in probe.facts.collectives if facts.payload_bytes):
        rates = [(message.payload_bytes, message.bytes_per_second) for message in messages(probe, kind)]
        found[kind.replace("_", "-")] = [(size, rate) for size, rate in rates if rate]
    return found


def _matmul(probe: Probe) -> dict[str, Points]:
    return dict(matmul_sizes(probe).items())


def _copies(probe: Probe) -> dict[str, Points]:
    return {
        f"{direction.replace('_', ' ')}, {'pinned' if pinned else 'pageable'}": points
        for (direction, pinned), points in copies(probe).items()
    }


def _plot(
    probes: Sequence[Probe],
    series: Callable[[Probe], dict[str, Points]],
    title: str,
    hardware: str,
    size_name: str,
    rate_name: str,
) -> Figure | None:
    panels = [(probe, found) for probe in probes if (found := series(probe))]
    if not panels:
        return None
    plot, axes = titled_canvas([title, hardware], len(panels))
    names = list(dict.fromkeys(name for _, found in panels for name in found))
    for axis, (probe, found) in zip(axes, panels, strict=True):
        for name, points in found.items():
            _draw(axis, name, points, LOOKS[names.index(name) % len(LOOKS)])
        axis.set_title(plural(probe.spec.world_size, "GPU" if probe.spec.device == "cuda" else "process"))
        _size_axis(axis, size_name, [size for points in found.values() for size, _ in points])
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes[0].set_ylabel(f"{rate_name} (log scale)")
    legend(plot, axes)
    return plot


def _draw(axis: Axes, name: str, points: Points, look: tuple[str, str]) -> None:
    """Medians joined, with bars from the least to the largest repeat."""
    rates = [rate for _, rate in points]
    arms = [[r.median - r.low for r in rates], [r.high - r.median for r in rates]]
    axis.errorbar(
        [size for size, _ in points],
        [rate.median / GIGA for rate in rates],
        yerr=[[arm / GIGA for arm in side] for side in arms],
        color=look[0],
        marker=look[1],
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label=name,
    )


def _size_axis(axis: Axes, name: str, sizes: Iterable[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(set(sizes)))
    axis.minorticks_off()
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: size(x) if name == "payload" else f"{x:g}"))
    axis.tick_params(axis="x", labelrotation=60, labelsize=7)
    axis.set_xlabel(f"{name} (log scale)")
