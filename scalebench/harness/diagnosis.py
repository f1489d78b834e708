"""What is looked at after the timed window, off the clock: phases, the contract, and the most that tensors held at
once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from scalebench.meters.contract import contradictions, observe
from scalebench.meters.phases import measure_phases
from scalebench.meters.tensor_peak import measure_tensor_peak
from scalebench.records.phases import PhaseFacts
from scalebench.records.record import Contract
from scalebench.spec import RunSpec
from scalebench.strategies.base import Batch, TrainStep


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One rank's findings; the contract is None when it could not be observed, which is a contradiction too."""

    contract: Contract | None = None
    contradictions: list[str] = field(default_factory=list)
    tensor_peak: int | None = None
    phases: PhaseFacts | None = None


def diagnose(
    step: TrainStep,
    batches: Iterator[Sequence[Batch]],
    spec: RunSpec,
    device: torch.device,
    ready: Callable[[], None],
) -> Diagnosis:
    """Run a few more optimizer steps under observation. Collective; `ready` is a barrier.

    Whatever goes wrong in them is a finding, not an error: what was measured before is not lost.
    """
    try:
        phases = measure_phases(step, batches, device, ready)
        micro_batches = next(batches)
        contract = observe(step, micro_batches, spec, device)
        peak = measure_tensor_peak(step, micro_batches, device)
    except Exception as error:
        return Diagnosis(contradictions=[f"asked an observed contract, observed {type(error).__name__}: {error}"])
    found = contradictions(spec, contract)
    return Diagnosis(contract=contract, contradictions=found, tensor_peak=peak, phases=phases)
