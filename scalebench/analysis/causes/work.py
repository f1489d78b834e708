"""What a run does to itself: it waits for data, for its slowest rank, for operators to start."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scalebench.analysis.cores import core_waits
from scalebench.analysis.loading import loading
from scalebench.analysis.phases import phase_times
from scalebench.analysis.steps import NANOSECONDS, foreign_cpu_cores
from scalebench.analysis.stragglers import data_wait, spread

from .communication import exposed_seconds
from .judging import Judgement, Limit, Run, Unknown, milliseconds

LATER_WORKERS = 2
"""Workers to try where nobody measured how many are enough."""


def waiting_for_data(run: Run) -> Judgement:
    """The rank that waits longest makes the others wait too."""
    waits = data_wait(run.record)
    if waits is None:
        return Unknown(cause="data", reason="how long steps waited for data was not recorded")
    seconds, found = max(waits), loading(run.record)
    phases = phase_times(run.record)
    if run.record.spec.device == "cuda" and phases:
        seconds = min(seconds, phases["data"].slowest)  # while the host waits, the GPU may still have work
    evidence = f"the next batch takes {milliseconds(seconds)} to come"
    if found:
        alone = ", ".join(f"{rate:.3g} with {workers} workers" for workers, rate in found.rates.items())
        evidence += f"; steps could take {found.needed:.3g} batches/s, the loader alone gives {alone}"
    return Limit(cause="data", seconds=seconds, doing="waits for data", evidence=evidence, remedy=more_workers(run))


def more_workers(run: Run) -> str:
    """The number of workers that was seen to be enough, or what to try where none was."""
    found, now = loading(run.record), run.record.spec.num_workers
    if found and found.workers:
        return f"--num-workers {found.workers}"
    if found and len(found.rates) > 2:
        return f"more workers than {max(found.rates)} (--num-workers), faster storage, or data prepared beforehand"
    return f"--num-workers {max(LATER_WORKERS, 2 * now)} (--loader-rates tells how many are enough)"


def slow_rank(run: Run) -> Judgement:
    """The ranks that are done wait in a collective for the one that is not."""
    if len(run.ranks) < 2:
        return None
    found = spread(run.record)
    if found is None:
        return Unknown(cause="slow rank", reason="what each rank did itself was not recorded")
    late, data = found.slowest, data_wait(run.record)
    later_data = max(0.0, lead(data, late)) if data else 0.0  # which is told as such
    waited = waited_for_core(run, late)
    not_others = unexplained(run, waited)
    seconds, waited = max(0.0, found.waited - later_data - not_others), waited - not_others
    evidence = (
        f"rank {late} on {run.ranks[late].host} works {milliseconds(found.seconds[late])} of a step, "
        f"the others {milliseconds(found.others)}"
    )
    remedy = f"look at what rank {late} runs on (scalebench doctor there), or at work that is not the same for all"
    if waited > seconds / 2:
        evidence += f"; for {milliseconds(waited)} of it, it waits for a core that another program uses"
        remedy = f"end what else runs on core {listed(run.ranks[late].affinity)} (top shows it)"
    return Limit(cause="slow rank", seconds=seconds, doing=f"waits for rank {late}", evidence=evidence, remedy=remedy)


def waited_for_core(run: Run, rank: int) -> float:
    """Seconds of a step for which `rank` waited longer for a core than the others; 0 where it is not known or does not
    matter, as on a GPU."""
    waits = core_waits(run.record) if run.record.spec.device == "cpu" else None
    return max(0.0, lead(waits, rank)) / run.window.whole_steps if waits else 0.0


def unexplained(run: Run, waited: float) -> float:
    """The part of a wait for a core that others did not run in: a quota that stops ranks in turn."""
    others = foreign_cpu_cores(run.record)
    return 0.0 if others is None else max(0.0, waited - others * run.step_seconds)


def lead(values: Sequence[float], rank: int) -> float:
    """How much more `rank` has than the others, on average."""
    return values[rank] - float(np.mean(np.delete(values, rank)))


def small_batch(run: Run) -> Judgement:
    """What a step costs whatever its batch: starting operators, updating parameters."""
    spec, effects = run.record.spec, [rank.batch_effect for rank in run.ranks]
    known = [effect for effect in effects if effect and effect.own_ns]
    if len(known) < len(effects):
        reasons = [effect.unknown_because for effect in effects if effect and effect.unknown_because]
        return Unknown(cause="small batch", reason=reasons[0] if reasons else "no other batch was tried")
    own, other = (mean_of_medians([getattr(effect, name) for effect in known]) for name in ("own_ns", "other_ns"))
    samples = known[0].other_micro_batch
    fixed = (other * spec.micro_batch - own * samples) / (spec.micro_batch - samples)
    if spec.device == "cuda":
        fixed -= exposed_seconds(run) or 0.0
    what = "CPU time" if spec.device == "cpu" else "GPU time"
    return Limit(
        cause="small batch",
        seconds=min(max(0.0, fixed), own),
        doing="is the same for any batch: this one is too small",
        evidence=f"a step takes {milliseconds(own)} of {what} with a micro-batch of {spec.micro_batch}, "
        f"{milliseconds(other)} with one of {samples}",
        remedy=f"--micro-batch {2 * spec.micro_batch}" + ("" if spec.compile else " or --compile"),
    )


def mean_of_medians(ranks: Sequence[Sequence[int]]) -> float:
    """Seconds, of nanoseconds of each rank's steps."""
    return float(np.mean([np.median(durations) for durations in ranks])) * NANOSECONDS


def listed(cores: Sequence[int] | None) -> str:
    """`0`, `0, 1`; `?` where it is not known."""
    return ", ".join(map(str, cores)) if cores else "?"
