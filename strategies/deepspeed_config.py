"""DeepSpeed's JSON for a run, and what in a user's own JSON contradicts the run. Pure: needs neither deepspeed nor torch.

A user's JSON is laid over the one built here: what it says is used, what it leaves out or writes as "auto" comes from the
run and its profile, and what it says otherwise than the run is a contradiction, one sentence each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .config import TrainConfig

Json = Mapping[str, Any]

DEFAULT_STAGE = 2
BUCKET_ELEMENTS = 6_553_600
"""25 MiB of fp32, the bucket of DistributedDataParallel."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an engine is asked to be.

    Attributes:
        stage: ZeRO stage, 0 to 3. offload: optimizer (and at stage 3 parameters) on the CPU.
        zero: further entries of the `zero_optimization` section. user: the user's own JSON, if any.
    """

    config: TrainConfig
    world_size: int
    stage: int
    offload: bool
    zero: Json
    user: Json | None = None


def build(plan: Plan) -> dict[str, Any]:
    """The JSON to hand to `deepspeed.initialize`, without an optimizer section: the run's own optimizer is passed beside it."""
    config = plan.config
    base: dict[str, Any] = {
        "train_batch_size": config.micro_batch * config.accumulation * plan.world_size,
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": _clipping(plan),
        "zero_allow_untested_optimizer": True,  # SGD is not on DeepSpeed's list
        "zero_force_ds_cpu_optimizer": False,  # its own has to be compiled
        "zero_optimization": _zero_section(plan),
    }
    if config.profile == "matched":
        base["timers"] = {"throughput": {"enabled": False}}  # it synchronises the device at every step
    user = plan.user or {}
    if not any(_enabled(user, name) for name in PRECISION_SECTIONS):
        base |= precision_sections(plan)
    return _overlay(base, {key: value for key, value in user.items() if key != "optimizer"})


def _clipping(plan: Plan) -> float:
    """DeepSpeed's 0 means no clipping; infinity, at stage 0, means to compute the norm and clip nothing."""
    if plan.config.clip_norm is not None:
        return plan.config.clip_norm
    return math.inf if plan.config.record_grad_norm and plan.stage == 0 else 0.0


def _zero_section(plan: Plan) -> dict[str, Any]:
    section: dict[str, Any] = {"stage": plan.stage}
    if plan.config.profile == "matched" and plan.stage > 0:
        section |= {
            "overlap_comm": True,
            "contiguous_gradients": True,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
        }
    if plan.config.profile == "matched" and plan.stage == 3:
        # As fully_shard with resharding: everything is sharded, and freed between forward and backward.
        section |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
    if plan.offload:
        section["offload_optimizer"] = {"device": "cpu"}
        if plan.stage == 3:
            section["offload_param"] = {"device": "cpu"}
    return section | dict(plan.zero)


def precision_sections(plan: Plan) -> dict[str, Any]:
    """The sections that give the run's precision; empty for fp32 and for 16-bit parameters at stage 0.

    At stage 0 mixed precision is torch's autocast: the wrapper that DeepSpeed's own sections bring there takes an
    optimizer step with zero gradients while it is built, and at fp16 divides by a loss scale that the loss never got.
    """
    config, matched = plan.config, plan.config.profile == "matched"
    word = config.precision.removesuffix("-true")
    if word == "fp32" or (plan.stage == 0 and not config.mixed):
        return {}
    if plan.stage == 0:
        return {"torch_autocast": {"enabled": True, "dtype": word}}
    section: dict[str, Any] = {"enabled": True}
    if not config.mixed:
        section |= {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}
        return {word: section}
    if not matched:
        return {word: section}
    # GradScaler's defaults for fp16; for bf16 no search for overflows, which no other backend makes.
    section |= {"loss_scale_window": 2000, "hysteresis": 1} if word == "fp16" else {"check_grad_overflow": False}
    return {word: section, "communication_data_type": "fp32", "data_types": {"grad_accum_dtype": "fp32"}}


def _overlay(base: Json, user: Json) -> dict[str, Any]:
    """`user` over `base`, section by section; "auto" takes the value of `base`, or DeepSpeed's default where it has none."""
    merged = dict(base)
    for key, value in user.items():
        if isinstance(value, Mapping):
            below = base.get(key)
            merged[key] = _overlay(below if isinstance(below, Mapping) else {}, value)
        elif value != "auto":
            merged[key] = value
    return merged


PRECISION_SECTIONS = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "torch_autocast": None, "amp": None}
"""Sections that choose a precision, and which; None: it has a `dtype` of its own."""

INSTRUMENTS = ("autotuning", "comms_logger", "flops_profiler", "tensorboard", "wandb", "csv_monitor", "comet")
OTHER_KINDS = {
    "tensor_parallel": "every rank is data parallel here",
    "sequence_parallel_size": "every rank is data parallel here",
    "expert_parallel": "every rank is data parallel here",
    "pipeline": "every rank is data parallel here",
    "hybrid_engine": "it is made for generation",
    "data_efficiency": "the run chooses its own data",
    "scheduler": "the run sets the learning rate itself",
}


def resolved_stage(stage: int | None, user: Json | None) -> int:
    """The stage asked by name or option, else the user's JSON's, else 2 (as Lightning's plain `deepspeed`)."""
    if stage is not None:
        return stage
    found = _section(user or {}, "zero_optimization").get("stage", "auto")
    return found if isinstance(found, int) and found in range(4) else DEFAULT_STAGE


def resolved_offload(offload: bool | None, stage: int | None, user: Json | None) -> bool:
    """Whether to offload: as asked; else, where the user's JSON may choose the stage, as it says."""
    if offload is not None or stage is not None:
        return bool(offload)
    return _offloads(user or {})


def check_user_config(
    user: Json, config: TrainConfig, world_size: int, *, stage: int | None = None, offload: bool | None = None
) -> list[str]:
    """One sentence for each thing in a user's DeepSpeed JSON that contradicts the run; empty when it fits.

    Args:
        user: the JSON as a mapping. config, world_size: the run.
        stage, offload: as the strategy's name or options fix them; None leaves them to the JSON.
    """
    malformed = [
        f'"{key}" in the DeepSpeed JSON must be an object, not {value!r}.'
        for key, value in user.items()
        if key in SECTIONS and not isinstance(value, Mapping)
    ]
    if malformed:
        return malformed
    run = _Run(user=user, config=config, world_size=world_size, stage=stage, offload=offload)
    checks: tuple[Callable[[_Run], Iterator[str]], ...] = (
        _check_batch, _check_clipping, _check_precision, _check_zero, _check_optimizer, _check_accumulation, _check_rest
    )  # fmt: skip
    return [sentence for check in checks for sentence in check(run)]


@dataclass(frozen=True, kw_only=True)
class _Run:
    user: Json
    config: TrainConfig
    world_size: int
    stage: int | None
    offload: bool | None


SECTIONS = ("zero_optimization", "bf16", "bfloat16", "fp16", "torch_autocast", "optimizer", "data_types", *INSTRUMENTS)


def _section(user: Json, name: str) -> Json:
    found = user.get(name, {})
    return found if isinstance(found, Mapping) else {}


def _enabled(user: Json, name: str) -> bool:
    return _section(user, name).get("enabled", False) is True


def _offloads(user: Json) -> bool:
    zero = _section(user, "zero_optimization")
    device = _section(zero, "offload_optimizer").get("device", "none")
    return device not in ("none", None, "auto") or zero.get("cpu_offload") is True


def _differs(where: str, given: object, wanted: object) -> Iterator[str]:
    """A sentence when `given` is there, not "auto", and another value than `wanted` (numbers by value)."""
    if given is None or given == "auto":
        return
    if isinstance(given, list | tuple) and isinstance(wanted, list | tuple):
        same = list(given) == list(wanted)
    elif _number(given) and _number(wanted):
        same = math.isclose(given, wanted, rel_tol=1e-9)  # type: ignore[arg-type]
    else:
        same = given == wanted
    if not same:
        yield f'{where} is {given!r} in the DeepSpeed JSON but {wanted!r} in this run: remove it, write "auto", or change the run.'


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_batch(run: _Run) -> Iterator[str]:
    config = run.config
    total = config.micro_batch * config.accumulation * run.world_size
    yield from _differs("train_batch_size", run.user.get("train_batch_size"), total)
    yield from _differs(
        "train_micro_batch_size_per_gpu", run.user.get("train_micro_batch_size_per_gpu"), config.micro_batch
    )
    yield from _differs(
        "gradient_accumulation_steps", run.user.get("gradient_accumulation_steps"), config.accumulation
    )


def _check_clipping(run: _Run) -> Iterator[str]:
    wanted = run.config.clip_norm or 0.0
    yield from _differs("gradient_clipping", run.user.get("gradient_clipping"), wanted)
    params = _section(_section(run.user, "optimizer"), "params")
    yield from _differs("optimizer.params.max_grad_norm", params.get("max_grad_norm"), wanted)


def _check_precision(run: _Run) -> Iterator[str]:
    word = run.config.precision.removesuffix("-true")
    for name, meant in PRECISION_SECTIONS.items():
        section = _section(run.user, name)
        enabled = section.get("enabled", "auto" if section else False)
        means = meant or _short(section.get("dtype", "auto"))
        if enabled is True and means not in (word, "auto"):
            yield f"{name}.enabled is true in the DeepSpeed JSON but this run's precision is {run.config.precision}: remove the section or ask for another --precision."
        if enabled is False and "enabled" in section and means == word and not _enabled(run.user, "torch_autocast"):
            yield f"{name}.enabled is false in the DeepSpeed JSON but this run's precision is {run.config.precision}: remove the section or ask for another --precision."
    yield from _check_masters(run)
    stage = resolved_stage(run.stage, run.user)
    if stage == 0 and any(_enabled(run.user, name) for name in ("bf16", "bfloat16", "fp16")):
        yield 'DeepSpeed\'s own 16-bit sections change the training at stage 0 (a step with zero gradients, a loss never scaled): use "torch_autocast" there or remove the section.'


def _check_masters(run: _Run) -> Iterator[str]:
    """16-bit masters are what the `-true` precisions ask for and nothing else does."""
    for section, key in (("bf16", "bf16_master_weights_and_grads"), ("fp16", "fp16_master_weights_and_grads")):
        given = _section(run.user, section).get(key)
        if given is not None and given != "auto" and bool(given) == run.config.mixed:
            yield from _differs(f"{section}.{key}", given, not run.config.mixed)


def _short(dtype: object) -> str:
    names = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}
    text = str(dtype).removeprefix("torch.")
    return names.get(text, text)


def _check_zero(run: _Run) -> Iterator[str]:
    zero = _section(run.user, "zero_optimization")
    stage = zero.get("stage", "auto")
    if stage != "auto" and (isinstance(stage, bool) or stage not in (0, 1, 2, 3)):
        yield f"zero_optimization.stage is {stage!r} in the DeepSpeed JSON: allowed are 0, 1, 2 and 3."
    elif run.stage is not None:
        yield from _differs("zero_optimization.stage", stage, run.stage)
    if (run.stage is not None or run.offload is not None) and not run.offload and _offloads(run.user):
        yield "zero_optimization.offload_optimizer is set in the DeepSpeed JSON but this strategy does not offload: use the strategy deepspeed, or one whose name ends in _offload."
    for name in ("offload_optimizer", "offload_param"):
        if _section(zero, name).get("device") == "nvme":
            yield f"zero_optimization.{name}.device is 'nvme' in the DeepSpeed JSON: its input and output need a compiled extension, so only 'cpu' and 'none' are supported."


def _check_optimizer(run: _Run) -> Iterator[str]:
    section, wanted = _section(run.user, "optimizer"), run.config.optimizer
    kind, params = section.get("type", "auto"), _section(section, "params")
    adam_w = params.get("adam_w_mode", True)
    names = {"adamw": ("adamw", "adam") if adam_w is True else ("adamw",), "sgd": ("sgd",)}[wanted.name]
    if kind != "auto" and str(kind).lower() not in names:
        yield from _differs("optimizer.type", kind, wanted.name)
        return
    yield from _differs("optimizer.params.lr", params.get("lr"), wanted.learning_rate)
    yield from _differs("optimizer.params.weight_decay", params.get("weight_decay"), wanted.weight_decay)
    if wanted.name == "adamw":
        yield from _differs("optimizer.params.betas", params.get("betas"), list(wanted.betas))
        yield from _differs("optimizer.params.eps", params.get("eps"), wanted.eps)
    else:
        yield from _differs("optimizer.params.momentum", params.get("momentum"), wanted.momentum)


def _check_accumulation(run: _Run) -> Iterator[str]:
    """Settings that would make the engine's mean over micro-batches and ranks another one."""
    yield from _differs("gradient_allreduce_op", run.user.get("gradient_allreduce_op"), "mean")
    yield from _differs("managed_gradient_accumulation", run.user.get("managed_gradient_accumulation"), True)


def _check_rest(run: _Run) -> Iterator[str]:
    for name in INSTRUMENTS:
        if _enabled(run.user, name):
            yield f"{name}.enabled is true in the DeepSpeed JSON: it would work inside the timed steps, so remove it."
    for name in ("wall_clock_breakdown", "memory_breakdown", "dump_state"):
        if run.user.get(name) is True:
            yield f"{name} is true in the DeepSpeed JSON: it would work inside the timed steps, so remove it."
    for name, reason in OTHER_KINDS.items():
        if run.user.get(name) not in (None, 1, {}):
            yield f"{name} is set in the DeepSpeed JSON, but {reason}: remove it."
    if _section(run.user, "compile").get("deepcompile") is True:
        yield "compile.deepcompile is true in the DeepSpeed JSON: remove it and use --compile, which compiles the same regions in every backend."
