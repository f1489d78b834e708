"""How much of the hardware's arithmetic a run used: model FLOPs over what the device could have done at its peak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scalebench.records.probe import Number, Probe
from scalebench.records.record import Record
from scalebench.theory.peaks import peak_flops

from .probe import cut_short, matmul_rate, number_of, probe_for
from .steps import window

COMPUTED_IN: dict[str, Number] = {"float32": "fp32", "tf32": "tf32", "bfloat16": "bf16", "float16": "fp16"}
"""Number formats by the names under which a contract observes them."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """FLOPs per second of one rank's device, and where that is known from: its data sheet, or a probe of it."""

    flops_per_second: float
    source: Literal["data sheet", "probe"]
    number: Number


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """Of one rank. The shares are None without a peak; all that a workload cannot count is None.

    Attributes:
        flops_per_second: model FLOPs per second, attention counted as full (PaLM's convention).
        mfu: those over the peak. causal_mfu: with only the keys that each query may see.
        hfu: hardware FLOPs over the peak: what is recomputed for activation checkpointing counts too.
        of_probe: hardware FLOPs per second over the rate at which a probe of this machine multiplied matrices.
    """

    flops_per_second: float
    peak: Peak | None
    mfu: float | None
    causal_mfu: float | None
    hfu: float | None
    of_probe: float | None


def utilisation(record: Record, probes: Sequence[Probe] = ()) -> Utilisation | None:
    """MFU (Chowdhery et al. 2022, arXiv:2204.02311, appendix B) and its kin; None when FLOPs or time are not known."""
    samples, work = _samples_per_second(record), record.workload
    if samples is None or work is None or work.flops_per_sample is None:
        return None
    probed = _probed_peak(record, probes)
    peak, hardware = peak_of(record, probes), hardware_flops_per_sample(record)

    def share(flops: float | None, peak: Peak | None) -> float | None:
        return None if peak is None or flops is None else flops * samples / peak.flops_per_second

    return Utilisation(
        flops_per_second=work.flops_per_sample * samples,
        peak=peak,
        mfu=share(work.flops_per_sample, peak),
        causal_mfu=share(work.causal_flops_per_sample, peak),
        hfu=share(hardware, peak),
        of_probe=share(hardware, probed),
    )


def hardware_flops_per_sample(record: Record) -> float | None:
    """What the formula says one sample costs, recomputation included; None when the workload does not know."""
    work = record.workload
    if work is None or work.flops_per_sample is None:
        return None
    if not record.spec.activation_checkpointing:
        return work.flops_per_sample
    again = work.recomputed_flops_per_sample
    return None if again is None else work.flops_per_sample + again


def counted_over_formula(record: Record) -> float | None:
    """FLOPs that torch's counter saw in one step of one rank over those of the formula; None when either is unknown."""
    formula = hardware_flops_per_sample(record)
    counted = record.contract.flops_per_step if record.contract else None
    if not formula or counted is None:
        return None
    return counted / (formula * record.spec.micro_batch * record.spec.accumulation)


def peak_of(record: Record, probes: Sequence[Probe] = ()) -> Peak | None:
    """The peak of the device that the record ran on, in the number format that it computed in; None if unknown.

    A data sheet goes before a probe. Where ranks ran on devices of several names, there is no one peak.
    """
    number = _number(record)
    names = {rank.device_name for rank in record.ranks}
    listed = peak_flops(names.pop(), number) if len(names) == 1 else None
    if listed is not None:
        return Peak(flops_per_second=listed, source="data sheet", number=number)
    return _probed_peak(record, probes)


def _probed_peak(record: Record, probes: Sequence[Probe]) -> Peak | None:
    """A rate that a probe had time to find: with the larger sizes left out it is not what the device can do."""
    number, probe = _number(record), probe_for(record, probes)
    rate = matmul_rate(probe, number) if probe and not cut_short(probe, number) else None
    return Peak(flops_per_second=rate.median, source="probe", number=number) if rate else None


def _number(record: Record) -> Number:
    """The number format of most matrix products, as observed; as asked where nothing was."""
    observed = record.contract.compute if record.contract else None
    most, _, _ = (observed or "").partition("+")
    return COMPUTED_IN.get(most) or number_of(record)


def _samples_per_second(record: Record) -> float | None:
    """Samples per second of one rank over the window."""
    measured = window(record)
    rate = measured.items_per_second if measured else None
    if rate is None or record.workload is None:
        return None
    return rate / record.workload.items_per_sample / record.spec.world_size
