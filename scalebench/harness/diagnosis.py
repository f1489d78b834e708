"""What is looked at after the timed window, off the clock: phases, the contract, memory by category, communication."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from scalebench import compat
from scalebench.meters.batch_effect import measure_batch_effect
from scalebench.meters.communication import measure_communication
from scalebench.meters.contract import contract_of, contradictions, watch
from scalebench.meters.phases import measure_phases
from scalebench.meters.tensor_peak import measure_memory
from scalebench.records.record import Contract
from scalebench.spec import RunSpec
from scalebench.strategies.base import Batch, TrainStep

PATIENCE_SECONDS = 5.0
"""How long a rank on which something went wrong waits for others to come as far."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One rank's findings; the contract is None when it could not be observed, which is a contradiction too.

    `memory` has fields of MemoryFacts, `facts` of RankFacts.
    """

    contract: Contract | None = None
    contradictions: list[str] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def diagnose(
    step: TrainStep,
    batches: Iterator[Sequence[Batch]],
    spec: RunSpec,
    device: torch.device,
    ready: Callable[[], None],
) -> Diagnosis:
    """Run a few more optimizer steps under observation. Collective; `ready` is a barrier.

    Whatever goes wrong in them is a finding, not an error: what was measured before is not lost. It is raised on a rank
    that is alone with it, for which the others wait in a collective.
    """
    try:
        phases = measure_phases(step, batches, device, ready)
        micro_batches = next(batches)
        observer = watch(step, micro_batches, device)
        contract = contract_of(observer, step, spec, device)
        memory = measure_memory(step, micro_batches, device)
        communication = measure_communication(step, micro_batches, observer, device)
        batch_effect = measure_batch_effect(step, micro_batches, spec, device, memory.get("tensor_peak"))
    except Exception as error:
        if not everybody_comes():
            raise
        return Diagnosis(contradictions=[f"asked an observed contract, observed {type(error).__name__}: {error}"])
    come()
    return Diagnosis(
        contract=contract,
        contradictions=contradictions(spec, contract),
        memory=memory,
        facts={"phases": phases, "communication": communication, "batch_effect": batch_effect},
    )


def come() -> None:
    """Tell the other ranks that this one is through, without waiting for them."""
    if dist.is_initialized():
        compat.default_store().set(f"diagnosed-{dist.get_rank()}", "")


def everybody_comes() -> bool:
    """Whether all ranks are through within a few seconds."""
    come()
    if dist.is_initialized():
        names = [f"diagnosed-{rank}" for rank in range(dist.get_world_size())]
        try:
            compat.default_store().wait(names, timedelta(seconds=PATIENCE_SECONDS))
        except RuntimeError:  # by any store's time-out
            return False
    return True
