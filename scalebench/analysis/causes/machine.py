"""What the machine does to a run: clocks held back, cores withheld or taken by others, memory that runs out."""

from __future__ import annotations

from collections import Counter

import numpy as np

from scalebench.analysis.cores import core_waits, withheld
from scalebench.analysis.device import HELD_BACK, gpu_state
from scalebench.analysis.instability import WHOLE_CORES
from scalebench.analysis.steps import foreign_cpu_cores

from .judging import Judgement, Limit, Run, Unknown, milliseconds


def held_back_clocks(run: Run) -> Judgement:
    """GPUs that were slower than they can be: computing is taken to be as much longer."""
    if run.record.spec.device != "cuda":
        return None
    state = gpu_state(run.record)
    if state is None or state.throttled is None or state.sm_clock_share is None:
        return Unknown(cause="clocks", reason="no sensor told the GPUs' clocks and what held them back")
    reasons = {name: share for name, share in state.throttled.items() if name in HELD_BACK}
    lost = max(reasons.values(), default=0.0) * (1 - state.sm_clock_share)
    named = ", ".join(f"{name} in {share:.0%} of the time" for name, share in reasons.items()) or "nothing held them"
    return Limit(
        cause="clocks",
        seconds=lost * run.step_seconds,
        doing="is lost to clocks that were held back",
        evidence=f"the slowest GPU ran at {state.sm_clock_share:.0%} of its highest clock; {named}",
        remedy="better cooling or a higher power limit (nvidia-smi --power-limit)",
    )


def withheld_cpu(run: Run) -> Judgement:
    """A CPU quota stops all ranks of a host, again and again; each waits for the last one to go on."""
    if run.record.spec.device != "cpu":
        return None
    held = withheld(run.record)
    if held is None:
        return Unknown(cause="CPU quota", reason="no control group told how long its quota held cores back")
    seconds = max(held) / run.window.whole_steps
    return Limit(
        cause="CPU quota",
        seconds=seconds,
        doing="is withheld by the quota of the control group",
        evidence=f"it held each rank's cores back for {milliseconds(seconds)} of a step",
        remedy=WHOLE_CORES,
    )


def cpu_taken(run: Run) -> Judgement:
    """What every rank waited for a core that others used: to keep all waiting they must run on as many cores.

    (What one rank alone waited makes it a slow one.)
    """
    if run.record.spec.device != "cpu":
        return None
    waits, others = core_waits(run.record), foreign_cpu_cores(run.record)
    if waits is None or others is None:
        return Unknown(cause="CPU taken by others", reason="the system told no waits for a core, or no load of others")
    waited, ranks = min(waits) / run.window.whole_steps, Counter(rank.host for rank in run.ranks)
    return Limit(
        cause="CPU taken by others",
        seconds=min(waited, others * run.step_seconds / max(ranks.values())),
        doing="waits for a core that others use",
        evidence=f"every rank waits {milliseconds(waited)} of a step for one; others kept {others:.2g} cores busy",
        remedy="end other programs (top shows them)",
    )


def memory_pressure(run: Run) -> Judgement:
    """What steps in which the allocator of a GPU had to ask twice took longer than the others."""
    if run.record.spec.device != "cuda":
        return None
    retries = [rank.memory.allocation_retries for rank in run.ranks]
    known, steps = [count for count in retries if count is not None], run.window.step_seconds
    if len(known) < len(retries) or steps is None:
        return Unknown(cause="memory", reason="the allocator's retries, or single steps, are not known")
    lost = max(0.0, run.step_seconds - float(np.median(steps))) if any(known) else 0.0
    return Limit(
        cause="memory",
        seconds=lost,
        doing="goes to an allocator that ran out of memory",
        evidence=f"it freed its cache and tried again {max(known)} times; the mean step is so much above the median",
        remedy=f"--micro-batch {max(1, run.record.spec.micro_batch // 2)} or --activation-checkpointing",
    )
