"""The causes that can limit a run, each judged from its facts: seconds of a step lost, the evidence, what to try."""

from __future__ import annotations

from .communication import exposed_communication, latency
from .judging import Cause, Judgement, Limit, Run, Unknown
from .machine import cpu_taken, held_back_clocks, memory_pressure, withheld_cpu
from .work import slow_rank, small_batch, waiting_for_data

__all__ = ["CAUSES", "Cause", "Judgement", "Limit", "Run", "Unknown"]

CAUSES: tuple[Cause, ...] = (
    waiting_for_data,
    held_back_clocks,
    withheld_cpu,
    cpu_taken,
    slow_rank,
    latency,
    exposed_communication,
    small_batch,
    memory_pressure,
)
"""Of two that cost the same the one that comes first here is named: it may be what the later one sees."""
