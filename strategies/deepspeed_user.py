"""What in a user's own DeepSpeed JSON contradicts the run, one sentence each. Needs neither deepspeed nor torch.

A JSON is free in everything that the run does not fix itself; "auto" always means the run's value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from .config import TrainConfig
from .deepspeed_config import ENGINE_SECTIONS, Json, enabled, offloads, resolve_stage, section, short_name
from .deepspeed_keys import unknown_keys, wrong_values

INSTRUMENTS = ("autotuning", "comms_logger", "flops_profiler", "tensorboard", "wandb", "csv_monitor", "comet")
SWITCHES = ("wall_clock_breakdown", "memory_breakdown", "dump_state")
DATA_PARALLEL = "every rank is data parallel here"
NOT_HERE = {
    "tensor_parallel": DATA_PARALLEL,
    "sequence_parallel_size": DATA_PARALLEL,
    "expert_parallel": DATA_PARALLEL,
    "pipeline": DATA_PARALLEL,
    "hybrid_engine": "it is made for generation",
    "data_efficiency": "the run chooses its own data",
    "scheduler": "the run sets the learning rate itself",
}
OBJECTS = ("zero_optimization", "torch_autocast", "optimizer", "data_types", *ENGINE_SECTIONS, *INSTRUMENTS)


@dataclass(frozen=True, kw_only=True)
class _Run:
    user: Json
    config: TrainConfig
    world_size: int
    stage: int | None
    offload: bool | None


def check_user_config(
    user: Json,
    config: TrainConfig,
    world_size: int,
    *,
    stage: int | None = None,
    offload: bool | None = None,
    allow_unknown_keys: bool = False,
) -> list[str]:
    """One sentence for each thing in a user's DeepSpeed JSON that contradicts the run; empty when it fits.

    Args:
        user: the JSON as a mapping.
        config, world_size: the run.
        stage, offload: as the strategy's name or options fix them; None leaves them to the JSON.
        allow_unknown_keys: leave it to DeepSpeed whether it knows every key.
    """
    for name in OBJECTS:
        if not isinstance(user.get(name, {}), Mapping):
            return [f"{name} in the DeepSpeed JSON must be an object, not {user[name]!r}."]
    run = _Run(user=user, config=config, world_size=world_size, stage=stage, offload=offload)
    checks: tuple[Callable[[_Run], Iterator[str]], ...] = (
        _check_batch,
        _check_gradients,
        _check_precision,
        _check_masters,
        _check_zero,
        _check_optimizer,
        _check_rest,
    )
    unknown = [] if allow_unknown_keys else list(unknown_keys(user))
    return [*unknown, *wrong_values(user), *(sentence for check in checks for sentence in check(run))]


def _differs(where: str, given: object, wanted: object) -> Iterator[str]:
    """A sentence when `given` is there, not "auto", and another value than `wanted` (numbers by value)."""
    if given is None or given == "auto" or _equal(given, wanted):
        return
    yield (
        f'{where} is {given!r} in the DeepSpeed JSON but {wanted!r} in this run: remove it, write "auto", '
        f"or change the run."
    )


def _equal(given: object, wanted: object) -> bool:
    if isinstance(given, list | tuple) and isinstance(wanted, list | tuple):
        return len(given) == len(wanted) and all(map(_equal, given, wanted))
    if isinstance(given, bool) or isinstance(wanted, bool):
        return given is wanted
    if isinstance(given, int | float) and isinstance(wanted, int | float):
        return math.isclose(given, wanted, rel_tol=1e-9)
    return given == wanted


def _check_batch(run: _Run) -> Iterator[str]:
    config = run.config
    wanted = {
        "train_batch_size": config.micro_batch * config.accumulation * run.world_size,
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": config.accumulation,
    }
    for name, value in wanted.items():
        yield from _differs(name, run.user.get(name), value)


def _check_gradients(run: _Run) -> Iterator[str]:
    """Clipping, and what would make the engine's mean over micro-batches and ranks another one."""
    wanted = run.config.clip_norm or 0.0
    params = section(section(run.user, "optimizer"), "params")
    yield from _differs("gradient_clipping", run.user.get("gradient_clipping"), wanted)
    yield from _differs("optimizer.params.max_grad_norm", params.get("max_grad_norm"), wanted)
    yield from _differs("gradient_allreduce_op", run.user.get("gradient_allreduce_op"), "mean")
    yield from _differs("managed_gradient_accumulation", run.user.get("managed_gradient_accumulation"), True)


def _check_precision(run: _Run) -> Iterator[str]:
    word = run.config.precision.removesuffix("-true")
    dtype = short_name(section(run.user, "torch_autocast").get("dtype", "auto")).replace("auto", word)
    meanings = ENGINE_SECTIONS | {"torch_autocast": dtype}
    chosen = [name for name in meanings if enabled(run.user, name)]
    refused = [name for name in ENGINE_SECTIONS if section(run.user, name).get("enabled") is False]
    for name in chosen:
        if meanings[name] != word:
            yield _precision_sentence(f"{name} is enabled", run.config)
        elif name == "torch_autocast" and not run.config.mixed:
            yield _precision_sentence("torch_autocast is enabled", run.config)
        elif name != "torch_autocast" and resolve_stage(run.stage, run.user) == 0:
            yield (
                f"{name} is enabled in the DeepSpeed JSON, which at stage 0 trains otherwise than plain PyTorch: "
                f'remove it or use the section "torch_autocast".'
            )
    for name in refused:
        if meanings[name] == word and not chosen:
            yield _precision_sentence(f"{name} is disabled", run.config)


def _precision_sentence(found: str, config: TrainConfig) -> str:
    return (
        f"{found} in the DeepSpeed JSON but this run's precision is {config.precision}: remove the section or "
        f"ask for another precision."
    )


def _check_masters(run: _Run) -> Iterator[str]:
    """16-bit masters are what the `-true` precisions ask for, and nothing else does."""
    for name, key in (("bf16", "bf16_master_weights_and_grads"), ("fp16", "fp16_master_weights_and_grads")):
        given = section(run.user, name).get(key)
        if isinstance(given, bool) and given == run.config.mixed:
            yield from _differs(f"{name}.{key}", given, not run.config.mixed)


def _check_zero(run: _Run) -> Iterator[str]:
    zero = section(run.user, "zero_optimization")
    stage = zero.get("stage", "auto")
    if stage != "auto" and (isinstance(stage, bool) or stage not in range(4)):
        yield f"zero_optimization.stage is {stage!r} in the DeepSpeed JSON: allowed are 0, 1, 2 and 3."
    elif run.stage is not None:
        yield from _differs("zero_optimization.stage", stage, run.stage)
    if offloads(run.user) and not run.offload and (run.offload, run.stage) != (None, None):
        yield (
            "zero_optimization.offload_optimizer is set in the DeepSpeed JSON but this strategy does not offload: "
            "use the strategy deepspeed, or one whose name ends in _offload."
        )
    for name in ("offload_optimizer", "offload_param"):
        if section(zero, name).get("device") == "nvme":
            yield f"zero_optimization.{name}.device is 'nvme' in the DeepSpeed JSON: only 'cpu' needs no compiler."


def _check_optimizer(run: _Run) -> Iterator[str]:
    given, wanted = section(run.user, "optimizer"), run.config.optimizer
    params = section(given, "params")
    # DeepSpeed's Adam is AdamW unless told otherwise.
    kind = str(given.get("type", "auto")).lower()
    kind = "adamw" if kind == "adam" and params.get("adam_w_mode", True) else kind
    yield from _differs("optimizer.type", kind, wanted.name)
    expected: dict[str, object] = {"lr": wanted.learning_rate, "weight_decay": wanted.weight_decay}
    if wanted.name == "adamw":
        expected |= {"betas": list(wanted.betas), "eps": wanted.eps}
    else:
        expected |= {"momentum": wanted.momentum}
    for name, value in expected.items():
        yield from _differs(f"optimizer.params.{name}", params.get(name), value)


def _check_rest(run: _Run) -> Iterator[str]:
    """Instruments that would work inside the timed steps, and things that this run is not made of."""
    for name in INSTRUMENTS:
        if enabled(run.user, name):
            yield f"{name} is enabled in the DeepSpeed JSON: it would work inside the timed steps, so remove it."
    for name in SWITCHES:
        if run.user.get(name) is True:
            yield f"{name} is true in the DeepSpeed JSON: it would work inside the timed steps, so remove it."
    for name, reason in NOT_HERE.items():
        if run.user.get(name) not in (None, 1, {}):
            yield f"{name} is set in the DeepSpeed JSON, but {reason}: remove it."
    if section(run.user, "compile").get("deepcompile") is True:
        yield "compile.deepcompile is true in the DeepSpeed JSON: remove it and use --compile, which any backend has."
