"""What speaks against a run's figure, and what to do about it: from its step times, its counters and its sensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from scalebench.records.record import Record
from scalebench.remembered import remembered

from .cores import withheld
from .device import HELD_BACK, gpu_state
from .steps import MOST_OFF_THE_WALL, foreign_cpu_cores, sum_over_wall, window
from .unsteady import Instability, of_steps

BUSY_CORES, BUSY_SHARE = 0.4, 0.05
"""Load of others in cores, and of all the host's cores. On two cores quiet runs showed up to 0.29, their own launcher's
end and beginning among them, and runs beside one busy program 0.50 and more; many cores always have some load."""
LEAST_THROTTLED = 0.1
"""Share of the window in which clocks were held back."""
LEAST_WITHHELD = 0.01
"""Share of the window for which a quota withheld a rank's cores."""
WHOLE_CORES = "whole cores instead of a quota (docker run --cpuset-cpus, not --cpus), or a higher quota"
NEARLY_FULL = 0.95
"""Share of the device's memory from which the allocator begins to search, free and wait."""


@remembered
def instabilities(record: Record) -> list[Instability]:
    """Everything that speaks against the figure of a run that ended ok; nothing for any other record."""
    if record.kind != "run" or record.status != "ok":
        return []
    return [*of_steps(record), *of_machine(record)]


def of_machine(record: Record) -> Iterator[Instability]:
    """What counters and sensors show; what none of them told is not looked for."""
    yield from (one for sign in SIGNS if (one := sign(record)))


def taken_cpu(record: Record) -> Instability | None:
    """Other programs ran on the cores of CPU ranks."""
    cores, there_are = foreign_cpu_cores(record), record.environment.get("cores")
    least = max(BUSY_CORES, BUSY_SHARE * there_are) if isinstance(there_are, int) else BUSY_CORES
    if record.spec.device != "cpu" or cores is None or cores < least:
        return None
    return Instability(
        kind="CPU taken by others",
        seen=f"other programs kept {cores:.2g} cores busy",
        advice="end them, or measure when the machine is quiet, before deciding by small differences",
        size=cores,
    )


def quota(record: Record) -> Instability | None:
    """A CPU quota stopped ranks in the middle of their steps."""
    held, measured = withheld(record), window(record)
    share = max(held) / measured.whole_seconds if held and measured else 0.0
    if record.spec.device != "cpu" or share < LEAST_WITHHELD:
        return None
    return Instability(
        kind="CPU quota",
        seen=f"the quota of the control group held each rank's cores back for {share:.0%} of the window",
        advice=WHOLE_CORES,
        size=share,
    )


def gpu_neighbours(record: Record) -> Instability | None:
    """Other processes computed on the run's GPUs."""
    state = gpu_state(record)
    if state is None or not state.other_processes:
        return None
    return Instability(
        kind="other GPU processes",
        seen=f"{state.other_processes} other compute processes on a GPU of the run",
        advice="end them (nvidia-smi shows them), or choose other GPUs with CUDA_VISIBLE_DEVICES",
        size=state.other_processes,
    )


def throttled(record: Record) -> Instability | None:
    """Clocks of a GPU were held back by something that nobody chose."""
    state = gpu_state(record)
    shares = {name: share for name, share in ((state and state.throttled) or {}).items() if name in HELD_BACK}
    name = max(shares, key=lambda reason: shares[reason], default=None)
    if name is None or shares[name] < LEAST_THROTTLED:
        return None
    return Instability(
        kind="throttled clocks",
        seen=f"clocks were held back in {shares[name]:.0%} of the window: {name}",
        advice="improve cooling or raise the power limit, or lock clocks below that (nvidia-smi --lock-gpu-clocks)",
        size=shares[name],
    )


def recompiled(record: Record) -> Instability | None:
    """torch.compile made graphs inside the window."""
    count = largest(rank.window_compilations for rank in record.ranks)
    if not count:
        return None
    return Instability(
        kind="recompiled",
        seen=f"{count} graphs were compiled inside the window",
        advice="find what changes from step to step (TORCH_LOGS=recompiles), or warm up longer (--warmup-steps)",
        size=count,
    )


def retried(record: Record) -> Instability | None:
    """The CUDA allocator had to give memory back and ask again."""
    count = largest(rank.memory.allocation_retries for rank in record.ranks)
    if not count:
        return None
    return Instability(
        kind="allocator retries",
        seen=f"the CUDA allocator freed its cache and tried again {count} times, which waits for the GPU",
        advice="a smaller --micro-batch, --activation-checkpointing, or a strategy that shards more",
        size=count,
    )


def nearly_full(record: Record) -> Instability | None:
    """Little of the device's memory was left."""
    shares = [
        rank.memory.reserved_peak / rank.device_memory_bytes
        for rank in record.ranks
        if rank.memory.reserved_peak and rank.device_memory_bytes
    ]
    share = max(shares, default=0.0)
    if share < NEARLY_FULL:
        return None
    return Instability(
        kind="memory nearly full",
        seen=f"{share:.0%} of a GPU's memory was reserved",
        advice="a smaller --micro-batch or --activation-checkpointing before trusting the speed",
        size=share,
    )


def oversubscribed(record: Record) -> Instability | None:
    """Ranks had to share cores."""
    if not record.oversubscribed:
        return None
    return Instability(
        kind="oversubscribed",
        seen=f"{record.spec.world_size} ranks had fewer cores than threads",
        advice="ask for no more ranks than cores (--gpus); such runs show that it works, never how fast",
    )


def off_the_wall(record: Record) -> Instability | None:
    """The steps do not sum to what another clock says of the window."""
    off = sum_over_wall(record)
    if off is None or abs(off) <= MOST_OFF_THE_WALL:
        return None
    return Instability(
        kind="steps off the wall",
        seen=f"the steps sum to {abs(off):.1%} {'more' if off > 0 else 'less'} than the wall clock around them",
        advice="measure again; if it comes again, look at the clocks (a virtual machine's clock source, GPU drivers)",
        size=abs(off),
    )


def largest(values: Iterable[int | None]) -> int:
    return max((value for value in values if value is not None), default=0)


SIGNS: tuple[Callable[[Record], Instability | None], ...] = (
    taken_cpu,
    quota,
    gpu_neighbours,
    throttled,
    recompiled,
    retried,
    nearly_full,
    oversubscribed,
    off_the_wall,
)
