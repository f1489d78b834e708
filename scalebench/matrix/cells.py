"""From what was asked to what will run: `resolve` makes a Request the cells of a comparison, `plan` orders their runs.

The machine is given, and nothing is measured or started: all that is looked at is whether the data exist.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from scalebench import data, strategies, workloads
from scalebench.errors import UserError, unknown_name
from scalebench.machine import Machine
from scalebench.matrix.options import strategy_options, workload_options
from scalebench.matrix.request import Request, RequestError
from scalebench.matrix.series import Series
from scalebench.spec import PlannedRun, RunSpec
from scalebench.strategies.config import GradSync, OptimizerConfig, Precision

BASELINE = "single"
"""The strategy that efficiency is measured against: plain PyTorch on one rank, whatever number of ranks is asked."""
OWN_JSON = "deepspeed"
"""The strategy that takes a whole DeepSpeed configuration."""
DEFAULT_SIZE = {"cuda": "124m", "cpu": "tiny"}
DEFAULT_CPU_RANKS = 2
DEFAULT_REPEATS = 3
DEFAULT_TARGET_PRECISION = 0.02
DEFAULT_MAX_SECONDS = 20.0
MOST_RANKS_PER_CORE = 32
"""More CPU ranks than this are taken for a mistake: they would exhaust the machine before it could say anything."""


def resolve(request: Request, machine: Machine) -> list[RunSpec]:
    """Every cell of `request` on `machine`, each once, `single` at one rank first; nothing in them is left open.

    On a CPU every cell has the same threads and cores per rank: an equal share for the largest number of ranks.
    Raises UserError for whatever cannot be meant.
    """
    places = strategies_at_ranks(request, machine)
    ranks = tuple(dict.fromkeys(count for _, count in places))
    common = common_fields(request) | placement_fields(machine, max(ranks))
    own = strategy_fields(request, list(dict.fromkeys(strategy for strategy, _ in places)))
    return list(
        dict.fromkeys(
            RunSpec(
                **common,
                **model_fields(request, series),
                **own[strategy],
                **batch_fields(series, count),
                world_size=count,
                precision=precision,
                tf32=bool(request.tf32) and precision == "fp32",
            )
            for series in series_of(request, machine, ranks)
            for precision in precisions_of(request, machine)
            for strategy, count in places
        )
    )


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
    everything = machine.gpu_count if on_gpus else machine.cores
    asked = request.gpus or ("all" if on_gpus else DEFAULT_CPU_RANKS,)
    words = {"all": [everything], "doubling": doubling(everything if on_gpus else DEFAULT_CPU_RANKS)}
    counts = sorted({number for count in asked for number in words.get(str(count)) or [int(count)]})
    most = machine.gpu_count if on_gpus else machine.cores * MOST_RANKS_PER_CORE
    if counts[-1] > most:
        what = "visible GPUs (CUDA_VISIBLE_DEVICES counts)" if on_gpus else f"CPU processes, on {machine.cores} cores"
        raise RequestError(
            ("gpus",), f"{counts[-1]} ranks are asked for and there can be {most} {what}. Ask for fewer."
        )
    return counts


def doubling(most: int) -> list[int]:
    """1, 2, 4 ... up to `most`, and `most` itself."""
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})


def precisions_of(request: Request, machine: Machine) -> tuple[Precision, ...]:
    """The precisions asked for, or bf16 where it is native, else fp32."""
    precisions: tuple[Precision, ...] = request.precision or ("bf16" if machine.bf16_native else "fp32",)
    if request.tf32 and "fp32" not in precisions:
        raise RequestError(
            ("tf32",), f"tf32 is an option of fp32, not of {', '.join(precisions)}. Add --precision fp32."
        )
    return precisions


def series_of(request: Request, machine: Machine, ranks: tuple[int, ...]) -> list[Series]:
    """One series per workload, size, scaling and batch asked for."""
    scalings = request.scaling or ("strong" if request.global_batch else "weak",)
    if request.global_batch and "strong" not in scalings:
        raise RequestError(("global_batch",), "weak scaling fixes the micro-batch instead. Add --scaling strong.")
    if request.global_batch and request.micro_batch and request.accumulation:
        raise RequestError(
            ("accumulation",), "it follows from --global-batch and --micro-batch. Leave one of them out."
        )
    batches = list(
        itertools.product(request.micro_batch or [None], request.accumulation or [None], request.global_batch or [None])
    )
    return [
        Series(
            workload=workload,
            size=size,
            scaling=scaling,
            micro_batch=micro_batch,
            accumulation=accumulation,
            global_batch=global_batch,
            ranks=ranks,
        )
        for workload in request.workload or ("gpt",)
        for size in sizes_of(request, workload, machine)
        for scaling in scalings
        for micro_batch, accumulation, global_batch in batches
    ]


def sizes_of(request: Request, workload: str, machine: Machine) -> tuple[str, ...]:
    """The sizes asked for, each one of the workload's."""
    sizes, known = request.size or (DEFAULT_SIZE[machine.device],), workloads.size_names(workload)
    for size in sizes:
        if size not in known:
            raise RequestError(("size",), str(unknown_name(f"size of {workload}", size, known)))
    return sizes


def common_fields(request: Request) -> dict[str, Any]:
    """The fields that are the same in every cell and follow from the request alone."""
    defaults = OptimizerConfig()
    return {
        "data": data_of(request),
        "num_workers": request.num_workers or 0,
        "profile": request.profile or "matched",
        "optimizer": OptimizerConfig(
            name=request.optimizer or defaults.name, learning_rate=request.learning_rate or defaults.learning_rate
        ),
        "clip_norm": None if request.clip_norm == "none" else request.clip_norm or 1.0,
        "activation_checkpointing": bool(request.activation_checkpointing),
        "compile": bool(request.compile),
        **length_fields(request),
        "seed": request.seed or 0,
        "debug": bool(request.debug),
        "timeout_seconds": request.timeout or 600.0,
    }


def length_fields(request: Request) -> dict[str, Any]:
    """How long each run is: exact where a number of steps is given, else until it is steady, and precise enough."""
    if request.steps and request.target_precision:
        raise RequestError(
            ("target_precision",), "--steps fixes how many steps are timed, however precise. Leave one out."
        )
    exact = request.steps is not None and request.warmup_steps is not None
    if exact and request.max_seconds:
        raise RequestError(("max_seconds",), "--steps and --warmup-steps fix the length. Leave one of the three out.")
    return {
        "warmup_steps": request.warmup_steps,
        "steps": request.steps,
        "target_precision": None if request.steps else request.target_precision or DEFAULT_TARGET_PRECISION,
        "max_seconds": None if exact else request.max_seconds or DEFAULT_MAX_SECONDS,
    }


def data_of(request: Request) -> str:
    """The data's name as a spec stores it."""
    try:
        return data.resolve_name(request.data)
    except UserError as error:
        raise RequestError(("data",), str(error)) from None


def placement_fields(machine: Machine, largest: int) -> dict[str, Any]:
    """Device, threads and cores per rank: fixed over all cells, or efficiency would compare different machines."""
    if machine.device == "cuda":
        return {"device": "cuda"}
    share = machine.cores // largest
    return {"device": "cpu", "threads_per_rank": max(1, share), "cores_per_rank": share or None}


def model_fields(request: Request, series: Series) -> dict[str, Any]:
    """The workload with every option's value."""
    return {
        "workload": series.workload,
        "size": series.size,
        "workload_options": workload_options(series.workload, series.size, asked_options(request, "workload")),
    }


def strategy_fields(request: Request, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per strategy its name, the options asked of it, and when it reduces gradients."""
    options = strategy_options(names, asked_options(request, "strategy"))
    if request.deepspeed_config is not None:
        if OWN_JSON not in names:
            raise RequestError(
                ("deepspeed_config",), f"only the strategy {OWN_JSON} takes one. Add --strategy {OWN_JSON}."
            )
        options[OWN_JSON] = options[OWN_JSON] | {"config": request.deepspeed_config}
    return {
        name: {
            "strategy": name,
            "strategy_options": options[name],
            "grad_sync": grad_sync_of(request, name, options[name]),
        }
        for name in names
    }


def grad_sync_of(request: Request, strategy: str, options: Mapping[str, Any]) -> GradSync:
    """As asked, else the strategy's own rule. The baseline reduces nothing and stays one cell whatever is asked."""
    if request.grad_sync and strategy != BASELINE:
        return request.grad_sync
    if options:  # on which the rule may depend, as DeepSpeed's does on its stage
        return strategies.create(strategy, options).default_grad_sync
    return strategies.default_grad_sync(strategy)


def batch_fields(series: Series, world_size: int) -> dict[str, Any]:
    """How a step's samples are divided."""
    micro_batch, accumulation = series.batch(world_size)
    return {"micro_batch": micro_batch, "accumulation": accumulation, "scaling": series.scaling}


def asked_options(request: Request, section: Literal["strategy", "workload"]) -> dict[str, Any]:
    """The options of `--set` for one of the two; the word `none` is None."""
    asked = (request.set or {}).get(section, {})
    return {name: None if value == "none" else value for name, value in asked.items()}


def plan(specs: Sequence[RunSpec], repeats: int, seed: int, *, parity: bool = False) -> list[PlannedRun]:
    """Every run of `specs` in randomised blocks: each block holds one repeat of every cell, shuffled by `seed`.

    So that drift of the machine falls on all cells alike. With `parity`, one parity check per cell comes before them:
    first that the same was trained, then how fast.
    """
    checks = [PlannedRun(spec=spec, kind="parity") for spec in specs if parity and spec.strategy != BASELINE]
    shuffle = random.Random(seed).sample
    blocks = (shuffle(list(specs), len(specs)) for _ in range(repeats))
    return checks + [PlannedRun(spec=spec, repeat=repeat) for repeat, block in enumerate(blocks) for spec in block]
