"""From what was asked to what will run: `resolve` makes a Request the cells of a comparison.

The machine is given, and nothing is measured or started: all that is looked at is whether the data exist.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from scalebench import adapters, strategies, workloads
from scalebench.errors import unknown_name
from scalebench.machine import Machine
from scalebench.matrix.axes import SERIES, checkpoint_name, data_name, matches, none_or, one, points
from scalebench.matrix.options import strategy_options, workload_options
from scalebench.matrix.ranks import BASELINE, placement_fields, strategies_at_ranks
from scalebench.matrix.request import MAX, Axes, Override, Request, RequestError
from scalebench.matrix.series import Series
from scalebench.matrix.sought import micro_batch_of
from scalebench.spec import RunSpec
from scalebench.strategies.config import GradSync, OptimizerConfig, Precision
from scalebench.workloads.checkpoint_name import checkpoint_sha256

OWN_JSON = "deepspeed"
"""The strategy that takes a whole DeepSpeed configuration."""
DEFAULT_TARGET_PRECISION = 0.02
DEFAULT_MAX_SECONDS = 20.0

Key = tuple[str, ...]
"""Where something stands in a request, e.g. `("override", "0", "micro_batch")`."""


def resolve(request: Request, machine: Machine) -> list[RunSpec]:
    """Every cell of `request` on `machine`, each once; nothing in them is left open.

    On a CPU every cell has the same threads and cores per rank: an equal share for the largest number of ranks.
    What a search is to find (see `search_of`) stands at its smallest.
    Raises UserError for whatever cannot be meant.
    """
    parts = list(parts_of(request))
    placement = placement_fields(machine, max(part.most_ranks(machine) for part in parts))
    found = [
        spec
        for part in parts
        for spec in part.cells(machine, placement)
        if part.key or not excluded(request, spec, machine)
    ]
    if not found:
        raise RequestError(("exclude",), "every cell is excluded. Exclude fewer.")
    specs = list(dict.fromkeys(found))
    refuse_contradictions(request, specs)
    return specs


def refuse_contradictions(request: Request, specs: Sequence[RunSpec]) -> None:
    """Raise RequestError for the first cell whose strategy's own configuration says otherwise than the cell."""
    key = ("set", "strategy", "config") if request.deepspeed_config is None else ("deepspeed_config",)
    for spec in specs:
        if "config" in spec.strategy_options:
            strategy = strategies.create(spec.strategy, spec.strategy_options)
            told = strategy.contradictions(spec.train_config(), spec.world_size)
            if told:
                raise RequestError(key, f"in {spec.label}: {' '.join(told)}")


def parts_of(request: Request) -> Iterator[Part]:
    """The request itself, unless only its inclusions name strategies, and each of these."""
    if request.strategy or not request.include:
        yield Part(key=(), said=request, request=request)
    for index, said in enumerate(request.include or ()):
        yield Part(key=("include", str(index)), said=said, request=said.over(request))


def excluded(request: Request, spec: RunSpec, machine: Machine) -> bool:
    """Whether any of the exclusions matches `spec`."""
    for index, asked in enumerate(request.exclude or ()):
        with standing_at(("exclude", str(index)), asked):
            if matches(asked, spec, machine):
                return True
    return False


@dataclass(frozen=True, kw_only=True)
class Part:
    """Cells that are multiplied out together.

    Attributes:
        key, said: an inclusion's place and what it says; of the request itself, nothing and the request.
        request: everything that holds for these cells.
    """

    key: Key
    said: Axes
    request: Request

    def most_ranks(self, machine: Machine) -> int:
        with standing_at(self.key, self.said):
            return max(ranks for _, ranks in strategies_at_ranks(self.request, machine))

    def cells(self, machine: Machine, placement: Mapping[str, Any]) -> Iterator[RunSpec]:
        """Every cell, with its overrides but without regard to exclusions."""
        with standing_at(self.key, self.said):
            check(self.request, machine)
            places = strategies_at_ranks(self.request, machine)
            names = list(dict.fromkeys(strategy for strategy, _ in places))
            ranks = tuple(dict.fromkeys(count for _, count in places))
            for point in points(self.request):
                making = Making(point=point, machine=machine, placement=placement, names=names, ranks=ranks)
                for strategy, count in places:
                    yield from overridden(making, strategy, count, list(enumerate(self.request.override or ())))


def overridden(
    making: Making, strategy: str, ranks: int, overrides: Sequence[tuple[int, Override]]
) -> Iterator[RunSpec]:
    """The cell, or what the overrides make of it."""
    spec = making.cell(strategy, ranks)
    for place, (index, override) in enumerate(overrides):
        key = ("override", str(index))
        with standing_at((*key, "where"), override.where):
            matching = matches(override.where, spec, making.machine)
        if matching:
            with standing_at(key, override):
                for point in points(override.over(making.point)):
                    changed = replace(making, point=point)
                    yield from overridden(changed, strategy, ranks, overrides[place + 1 :])
            return
    yield spec


@dataclass(frozen=True, kw_only=True)
class Making:
    """What makes a cell of a strategy and a number of ranks: one value of each field, and what is fixed for all."""

    point: Request
    machine: Machine
    placement: Mapping[str, Any]
    names: Sequence[str]
    ranks: tuple[int, ...]

    def cell(self, strategy: str, ranks: int) -> RunSpec:
        series = series_of(self.point, self.machine, self.ranks)
        model = model_fields(self.point, series)
        precision = one(self.point.precision, default_precision(self.machine))
        return RunSpec(
            **common_fields(self.point),
            **self.placement,
            **model,
            optimizer=optimizer_of(self.point, model),
            **self._own[strategy],
            **batch_fields(series, ranks),
            world_size=ranks,
            precision=precision,
            tf32=one(self.point.tf32, False) and precision == "fp32",
        )

    @cached_property
    def _own(self) -> dict[str, dict[str, Any]]:
        return strategy_fields(self.point, self.names)


@contextlib.contextmanager
def standing_at(key: Key, said: Axes) -> Iterator[None]:
    """A RequestError of a value that `said` has stands at `key`."""
    try:
        yield
    except RequestError as error:
        if key and getattr(said, error.key[0], None) is not None:
            raise RequestError((*key, *error.key), str(error)) from None
        raise


def check(request: Request, machine: Machine) -> None:
    """Raise RequestError for fields that contradict each other whatever the combination of their values."""
    if request.global_batch and request.scaling and "strong" not in request.scaling:
        raise RequestError(("global_batch",), "weak scaling fixes the micro-batch instead. Add --scaling strong.")
    precisions = request.precision or (default_precision(machine),)
    if any(request.tf32 or ()) and "fp32" not in precisions:
        raise RequestError(
            ("tf32",), f"tf32 is an option of fp32, not of {', '.join(precisions)}. Add --precision fp32."
        )
    for index, override in enumerate(request.override or ()):
        for name in SERIES:
            if getattr(override, name):
                said = "an override cannot change which cells there are. Use exclude and include."
                raise RequestError(("override", str(index), name), said)


def default_precision(machine: Machine) -> Precision:
    """bf16 where it is native, else fp32."""
    return "bf16" if machine.bf16_native else "fp32"


def series_of(point: Request, machine: Machine, ranks: tuple[int, ...]) -> Series:
    """The scaling series that the cells of `point` belong to."""
    if point.global_batch and point.micro_batch and point.accumulation:
        raise RequestError(
            ("accumulation",), "it follows from --global-batch and --micro-batch. Leave one of them out."
        )
    workload = one(point.workload, "gpt")
    return Series(
        workload=workload,
        size=size_of(point, workload, machine),
        scaling=one(point.scaling, "strong" if point.global_batch or point.batch == "best" else "weak"),
        micro_batch=micro_batch_of(point),
        accumulation=one(point.accumulation, None),
        global_batch=one(point.global_batch, None),
        ranks=ranks,
    )


def size_of(point: Request, workload: str, machine: Machine) -> str:
    """The size asked for, one of the workload's."""
    size, known = one(point.size, workloads.default_size(workload, machine.device)), workloads.size_names(workload)
    if size == MAX:
        if adapters.is_own(workload):
            raise RequestError(("size",), "a model of one's own has one size. Leave --size out.")
        return known[0]
    if size not in known:
        raise RequestError(("size",), str(unknown_name(f"size of {workload}", size, known)))
    return size


def common_fields(point: Request) -> dict[str, Any]:
    """The fields that neither the model, the strategy nor the number of ranks touches."""
    clip_norm = one(point.clip_norm, 1.0)
    init_from = checkpoint_name(one(point.init_from, None))
    return {
        "init_from": init_from,
        "init_from_sha256": init_from and checkpoint_sha256(init_from),
        "num_workers": one(point.num_workers, 0),
        "profile": one(point.profile, "matched"),
        "clip_norm": none_or(clip_norm),
        "ema_decay": none_or(one(point.ema_decay, None)),
        "activation_checkpointing": one(point.activation_checkpointing, False),
        "compile": one(point.compile, False),
        **switches(point),
        **length_fields(point),
        "seed": point.seed or 0,
        "memory_limit_bytes": one(point.memory_limit, None),
        "diagnostics": point.diagnostics is not False,
        "debug": bool(point.debug),
        "timeout_seconds": point.timeout or 600.0,
    }


def switches(point: Request) -> dict[str, bool]:
    """What torch's libraries are told, for every strategy alike."""
    deterministic, benchmark = one(point.deterministic, False), one(point.cudnn_benchmark, False)
    if deterministic and benchmark:
        raise RequestError(
            ("cudnn_benchmark",),
            "cuDNN's choice differs from run to run, which --deterministic rules out. Leave one of them out.",
        )
    return {
        "deterministic": deterministic,
        "detect_anomaly": one(point.detect_anomaly, False),
        "cudnn_benchmark": benchmark,
    }


def optimizer_of(point: Request, model: Mapping[str, Any]) -> OptimizerConfig:
    """As asked; what is not asked, as a user's own model brings it along, else by default."""
    brought = None
    if adapters.is_own(model["workload"]) and not point.optimizer:
        brought = adapters.optimizer_of(model["workload"], model["workload_options"], point.seed or 0)
    config = brought or OptimizerConfig(name=one(point.optimizer, OptimizerConfig().name))
    return replace(config, learning_rate=one(point.learning_rate, config.learning_rate))


def length_fields(point: Request) -> dict[str, Any]:
    """How long each run is: exact where a number of steps is given, else until it is steady, and precise enough."""
    if point.steps and point.target_precision:
        raise RequestError(
            ("target_precision",), "--steps fixes how many steps are timed, however precise. Leave one out."
        )
    exact = point.steps is not None and point.warmup_steps is not None
    if exact and point.max_seconds:
        raise RequestError(("max_seconds",), "--steps and --warmup-steps fix the length. Leave one of the three out.")
    return {
        "warmup_steps": one(point.warmup_steps, None),
        "steps": one(point.steps, None),
        "target_precision": None if point.steps else one(point.target_precision, DEFAULT_TARGET_PRECISION),
        "max_seconds": None if exact else one(point.max_seconds, DEFAULT_MAX_SECONDS),
    }


def model_fields(request: Request, series: Series) -> dict[str, Any]:
    """The workload with every option's value, and its data."""
    own = adapters.is_own(series.workload)
    return {
        "workload": series.workload,
        "size": series.size,
        "workload_sha256": adapters.source_sha256(series.workload) if own else None,
        "data": adapters.OWN_DATA if own and not request.data else data_of(request, series.workload),
        "workload_options": workload_options(series.workload, series.size, asked_options(request, "workload")),
    }


def data_of(request: Request, workload: str) -> str:
    """The data asked for, else the workload's default."""
    return data_name(one(request.data, workloads.default_data(workload)), workloads.reads(workload))


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
        return request.grad_sync[0]
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
    return {name: none_or(value) for name, value in asked.items()}
