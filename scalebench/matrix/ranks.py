"""Which strategies run on how many ranks, and what of the machine each rank gets."""

from __future__ import annotations

import itertools
from typing import Any

from scalebench.errors import UserError
from scalebench.machine import Machine
from scalebench.matrix.request import Request, RequestError

BASELINE = "single"
"""The strategy that efficiency is measured against: plain PyTorch on one rank, whatever number of ranks is asked."""
DEFAULT_CPU_RANKS = 2
MOST_RANKS_PER_CORE = 32
"""More CPU ranks than this are taken for a mistake: they would exhaust the machine before it could say anything."""


def strategies_at_ranks(request: Request, machine: Machine) -> list[tuple[str, int]]:
    """(strategy, ranks) of each cell, the baseline first. `single` is always at one rank, whatever is asked."""
    if not request.strategy:
        raise UserError("no strategy is given. Name some, e.g. --strategy ddp,fsdp; `scalebench list` shows all.")
    baseline = [(BASELINE, 1)] if request.baseline is not False else []
    asked = itertools.product(request.strategy, rank_counts(request, machine))
    places = baseline + [(strategy, 1 if strategy == BASELINE else count) for strategy, count in asked]
    return list(dict.fromkeys(places))


def rank_counts(request: Request, machine: Machine) -> list[int]:
    """The numbers of ranks asked for, ascending. Raises UserError for more than the machine can hold."""
    on_gpus = machine.device == "cuda"
    counts = ranks_meant(request.gpus or ("all" if on_gpus else DEFAULT_CPU_RANKS,), machine)
    most = machine.gpu_count if on_gpus else machine.cores * MOST_RANKS_PER_CORE
    if counts[-1] > most:
        what = "visible GPUs (CUDA_VISIBLE_DEVICES counts)" if on_gpus else f"CPU processes, on {machine.cores} cores"
        raise RequestError(
            ("gpus",), f"{counts[-1]} ranks are asked for and there can be {most} {what}. Ask for fewer."
        )
    return counts


def ranks_meant(asked: tuple[int | str, ...], machine: Machine) -> list[int]:
    """The numbers of ranks that `asked` stands for on `machine`, ascending."""
    on_gpus = machine.device == "cuda"
    everything = machine.gpu_count if on_gpus else machine.cores
    words = {"all": [everything], "doubling": doubling(everything if on_gpus else DEFAULT_CPU_RANKS)}
    return sorted({number for count in asked for number in words.get(str(count)) or [int(count)]})


def doubling(most: int) -> list[int]:
    """1, 2, 4 ... up to `most`, and `most` itself."""
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})


def placement_fields(machine: Machine, largest: int) -> dict[str, Any]:
    """Device, threads and cores per rank: fixed over all cells, or efficiency would compare different machines."""
    if machine.device == "cuda":
        return {"device": "cuda"}
    share = machine.cores // largest
    return {"device": "cpu", "threads_per_rank": max(1, share), "cores_per_rank": share or None}
