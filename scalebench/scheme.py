"""What theory needs to know of a run: the model that a workload builds, and the scheme that a spec stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import torch
from torch import nn

from scalebench import strategies
from scalebench.spec import RunSpec
from scalebench.strategies.base import Strategy, Workload
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.construct import compute_dtype, parameter_dtype
from scalebench.theory.model import Model, Module, Parameter
from scalebench.theory.scheme import ElementBytes, FlatSharded, FullySharded, Replicated, Scheme, Sharding, Zero

MIB = 2**20
TORCHS_BUCKET_MIB, TORCHS_FIRST_BUCKET_MIB = 25.0, 1.0


def model_of(workload: Workload, *, whole_regions: bool = False) -> Model:
    """The model of `workload`, built on the meta device: nothing is allocated.

    Args:
        whole_regions: the regions that are compiled count as one module each, as ZeRO-3 takes them when they are.
    """
    with torch.device("meta"):
        module = workload.build()
    index = {id(parameter): i for i, parameter in enumerate(module.parameters())}
    no_decay, blocks = workload.no_decay_names(module), workload.block_names(module)
    whole = set(workload.compiled_names(module)) if whole_regions else set()
    return Model(
        parameters=tuple(
            Parameter(shape=tuple(parameter.shape), decays=name not in no_decay)
            for name, parameter in module.named_parameters()
        ),
        blocks=tuple(tuple(index[id(p)] for p in module.get_submodule(name).parameters()) for name in blocks),
        root=_module(module, "", index, frozenset(blocks), frozenset(whole)),
        buffer_bytes=sum(buffer.nbytes for buffer in module.buffers()),
    )


def _module(
    module: nn.Module, name: str, index: Mapping[int, int], blocks: frozenset[str], whole: frozenset[str]
) -> Module:
    recurse = name in whole
    own = tuple(index[id(parameter)] for parameter in module.parameters(recurse=recurse))
    children = () if recurse else tuple(_called(module, name))
    return Module(
        own=own,
        children=tuple(_module(child, inner, index, blocks, whole) for inner, child in children),
        block=name in blocks,
    )


def _called(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules right below `module` that are called: a ModuleList is not, but what it holds is."""
    for key, child in module.named_children():
        inner = f"{name}.{key}".lstrip(".")
        if isinstance(child, nn.ModuleList):
            yield from _called(child, inner)
        else:
            yield inner, child


def scheme_of(spec: RunSpec, model: Model) -> Scheme | None:
    """The scheme of `spec`, or None when it has a strategy, or an option of one, whose doings are not known."""
    raw = strategies.raw_name(spec.strategy)  # a framework sends and holds what the strategy that it wraps does
    strategy = strategies.create(raw, spec.strategy_options if raw == spec.strategy else {})
    config = spec.train_config()
    describe = _FAMILIES.get(strategies.entry(raw).target)
    described = describe(strategy, config, spec, model) if describe else None
    if described is None:
        return None
    sharding, element_bytes = described
    syncs_all = config.grad_sync == "every_micro_batch"
    return Scheme(
        ranks=spec.world_size,
        backend="gloo" if spec.device == "cpu" else "nccl",
        accumulation=config.accumulation,
        reductions=config.accumulation if syncs_all else 1,
        moments=_moments(config),
        average=4 if config.ema_decay else 0,
        checkpointing=config.activation_checkpointing,
        bytes=element_bytes,
        sharding=sharding,
    )


def _moments(config: TrainConfig) -> int:
    return 2 if config.optimizer.name == "adamw" else int(config.optimizer.momentum > 0)


def _torch_bytes(config: TrainConfig, reduce: int) -> ElementBytes:
    """Parameters that the optimizer updates itself: gradients and moments have their dtype."""
    stored, compute = parameter_dtype(config).itemsize, compute_dtype(config).itemsize
    return ElementBytes(parameter=stored, compute=compute, reduce=reduce, gradient=stored, state=stored)


Described = tuple[Sharding, ElementBytes]


def _single(strategy: Strategy, config: TrainConfig, spec: RunSpec, model: Model) -> Described:
    return Replicated(wrapped=False), _torch_bytes(config, parameter_dtype(config).itemsize)


def _ddp(strategy: Any, config: TrainConfig, spec: RunSpec, model: Model) -> Described:
    asked = strategy.bucket_cap_mb
    matched = config.profile == "matched"
    first = asked or (TORCHS_BUCKET_MIB if matched else TORCHS_FIRST_BUCKET_MIB)
    sharding = Replicated(
        bucket_bytes=int((asked or TORCHS_BUCKET_MIB) * MIB),
        first_bucket_bytes=int(first * MIB),
        bucket_view=strategy.gradient_as_bucket_view,
        low_rank=int(strategy.gradient_compression == "powersgd"),
    )
    halved = strategy.gradient_compression in ("fp16", "bf16")
    return sharding, _torch_bytes(config, 2 if halved else parameter_dtype(config).itemsize)


def _fsdp(strategy: Any, config: TrainConfig, spec: RunSpec, model: Model) -> Described:
    group = strategy.ranks_per_group(spec.world_size)
    reshard = strategy.reshard_after_forward
    sharding = FullySharded(
        shard_ranks=group,
        reshard_ranks={True: group, False: 1}[reshard] if isinstance(reshard, bool) else reshard,
        prefetch=strategy.prefetch,
        offload=strategy.cpu_offload,
    )
    return sharding, _torch_bytes(config, _cast_reduce(config))


def _fsdp1(strategy: Any, config: TrainConfig, spec: RunSpec, model: Model) -> Described:
    sharding = FlatSharded(reshard_after_forward=strategy.sharding_strategy == "FULL_SHARD")
    return sharding, _torch_bytes(config, _cast_reduce(config))


def _cast_reduce(config: TrainConfig) -> int:
    """The matched profile reduces in the dtype of the parameters, torch as it ships in the one they are cast to."""
    return (parameter_dtype if config.profile == "matched" else compute_dtype)(config).itemsize


def _deepspeed(strategy: Any, config: TrainConfig, spec: RunSpec, model: Model) -> Described | None:
    block = max((sum(p.elements for p in model.pick(block)) for block in model.blocks), default=None)
    plan = strategy.plan(config, spec.world_size, block)
    section = plan.json["zero_optimization"]
    if any(key.startswith("zero_") for key in section) or (plan.stage and plan.autocast):
        return None  # hierarchical or quantised ZeRO (zero_hpz…, zero_quantized…), or torch's autocast above stage 0
    known = {
        name: section[key] for name in Zero.__dataclass_fields__ for key in (name, f"stage3_{name}") if key in section
    }
    overlap = known.pop("overlap_comm", None)
    sharding = Zero(
        **(known | {"stage": cast(Literal[0, 1, 2, 3], plan.stage)}),
        after_backward=plan.stage == 0 or plan.wrapper == "BF16_Optimizer",
        offload=plan.offload,
        overlap_comm=plan.stage == 3 if overlap is None else overlap,
    )
    return sharding, _zero_bytes(plan, config)


def _zero_bytes(plan: Any, config: TrainConfig) -> ElementBytes:
    sizes = {"fp32": 4, "bf16": 2, "fp16": 2}
    stored = sizes[plan.parameter_dtype]
    if plan.stage == 0:
        return ElementBytes(
            parameter=stored, compute=compute_dtype(config).itemsize, reduce=4, gradient=stored, state=stored
        )
    reduce = sizes[plan.json.get("communication_data_type") or plan.engine_dtype or "fp32"]
    true = config.precision.endswith("-true")
    high = 2 if true else 4
    return ElementBytes(parameter=stored, compute=stored, reduce=reduce, gradient=high, state=high, master=high)


_FAMILIES = {
    "single:Single": _single,
    "ddp:DDP": _ddp,
    "fsdp:FSDP": _fsdp,
    "fsdp1:FSDP1": _fsdp1,
    "deepspeed:DeepSpeed": _deepspeed,
}
