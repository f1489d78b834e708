"""Table of how much of the hardware's arithmetic was used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scalebench.analysis import utilisation as analysis
from scalebench.analysis.cells import Cell
from scalebench.analysis.utilisation import Peak, Utilisation
from scalebench.records.probe import Probe
from scalebench.records.record import Record

from .experiments import Experiment
from .table import Row, Table, place, table
from .text import UNKNOWN, figure, listing, percent, with_interval

GIGA = 1e9
NOTE = (
    "Model FLOPs with full attention (PaLM's convention); causal: with only the keys that each query may see; HFU and "
    "the share of the probe count what is recomputed too."
)
NO_PEAK = "MFU: n/a, no peak of {} in {} is known; `scalebench probe` measures it (--max-seconds if its time was up)."
NO_FORMULA = "MFU: n/a, this workload has no formula of its FLOPs."
"""What to say where there is no table."""

Figure = Callable[[Utilisation], float | None]

SHARES: dict[str, Figure] = {
    "MFU, full attention": lambda used: used.mfu,
    "MFU, causal": lambda used: used.causal_mfu,
    "HFU": lambda used: used.hfu,
    "of the probe's products": lambda used: used.of_probe,
}


def utilisation(experiment: Experiment, probes: Sequence[Probe]) -> Table | None:
    """Model FLOPs per second of one rank, and as shares of its device's peak; None where FLOPs are not known."""
    rows: list[Row] = []
    for cell in experiment.measured:
        rate = cell.estimate(_of(probes, lambda used: used.flops_per_second))
        if rate is not None:
            rows.append(
                place(experiment, cell)
                | {
                    "strategy": experiment.names[cell],
                    f"model GFLOP/s per {experiment.unit}": with_interval(rate.scaled(1 / GIGA)),
                }
                | {title: with_interval(cell.estimate(_of(probes, share)), percent) for title, share in SHARES.items()}
                | {"peak, GFLOP/s": "; ".join(dict.fromkeys(map(_told, _peaks(cell, probes))))}
                | {"counted / formula": _counted(cell)}
            )
    return table("Utilisation", rows, [NOTE, *_unknown_peaks(experiment, probes)])


def _counted(cell: Cell) -> str:
    """Every distinct ratio over processes."""
    ratios = cell.values(analysis.counted_over_formula)
    return ", ".join(dict.fromkeys(f"{ratio:.3f}" for ratio in ratios)) or UNKNOWN


def _of(probes: Sequence[Probe], figure_of: Figure) -> Callable[[Record], float | None]:
    return lambda record: figure_of(used) if (used := analysis.utilisation(record, probes)) else None


def _peaks(cell: Cell, probes: Sequence[Probe]) -> list[Peak | None]:
    return [used.peak for record in cell.measured if (used := analysis.utilisation(record, probes))]


def _told(peak: Peak | None) -> str:
    return f"{figure(peak.flops_per_second / GIGA)} ({peak.number}, {peak.source})" if peak else UNKNOWN


def _unknown_peaks(experiment: Experiment, probes: Sequence[Probe]) -> list[str]:
    without = [cell for cell in experiment.measured if None in _peaks(cell, probes)]
    if not without:
        return []
    names = {rank.device_name or "this CPU" for cell in without for record in cell.measured for rank in record.ranks}
    return [NO_PEAK.format(listing(sorted(names)), listing(sorted({cell.precision for cell in without})))]
