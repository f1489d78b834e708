"""The interchangeable backends: name to class and options, imported on use.

Import this package as `scalebench.strategies` only. It needs torch and nothing else of scalebench.

A third party adds a strategy by an entry point of the group `scalebench.strategies`, its name the strategy's and its
value `package.module:Class` (a subclass of `scalebench.strategies.base.Strategy`).
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from .config import GradSync

if TYPE_CHECKING:
    from .base import Strategy

ENTRY_POINT_GROUP = "scalebench.strategies"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A strategy's name: its class, the options that the name stands for, and what others call the same thing.

    `grad_sync` is when it reduces gradients unless asked otherwise; None leaves that to the class. `needs` is the
    package that it takes beyond torch, as its class has it. `wraps` is the raw strategy that a framework's one wraps,
    which theory takes it for and whose cost its own is compared with.
    """

    target: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    grad_sync: GradSync | None = None
    needs: str | None = None
    wraps: str | None = None
    lightning: str | None = None
    accelerate: str | None = None
    raw: str
    summary: str


_ZERO = "deepspeed.initialize, zero_optimization.stage"

BUILTIN: dict[str, Entry] = {
    "single": Entry(
        target="single:Single",
        grad_sync="last",
        lightning="auto (one device)",
        accelerate="no (one process)",
        raw="plain PyTorch, no wrapper",
        summary="one rank, no wrapper: the baseline and the parity reference",
    ),
    "ddp": Entry(
        target="ddp:DDP",
        grad_sync="last",
        lightning="ddp",
        accelerate="MULTI_GPU",
        raw="torch.nn.parallel.DistributedDataParallel",
        summary="replicated parameters, gradients all-reduced in buckets",
    ),
    "ddp_find_unused_parameters_true": Entry(
        target="ddp:DDP",
        grad_sync="last",
        preset={"find_unused_parameters": True},
        lightning="ddp_find_unused_parameters_true",
        accelerate="MULTI_GPU, DistributedDataParallelKwargs(find_unused_parameters=True)",
        raw="DistributedDataParallel(find_unused_parameters=True)",
        summary="ddp for models that do not use every parameter in every step",
    ),
    "ddp_static_graph": Entry(
        target="ddp:DDP",
        grad_sync="last",
        preset={"static_graph": True},
        lightning="DDPStrategy(static_graph=True)",
        accelerate="MULTI_GPU, DistributedDataParallelKwargs(static_graph=True)",
        raw="DistributedDataParallel(static_graph=True)",
        summary="ddp told that the graph never changes",
    ),
    "fsdp": Entry(
        target="fsdp:FSDP",
        grad_sync="every_micro_batch",
        lightning="ModelParallelStrategy",
        accelerate="FSDP, fsdp_version 2, reshard_after_forward true",
        raw="torch.distributed.fsdp.fully_shard",
        summary="FSDP2: parameters, gradients and optimizer state sharded (like ZeRO-3)",
    ),
    "fsdp_shard_grad_op": Entry(
        target="fsdp:FSDP",
        grad_sync="every_micro_batch",
        preset={"reshard_after_forward": False},
        lightning="FSDPStrategy(sharding_strategy='SHARD_GRAD_OP')",
        accelerate="FSDP, fsdp_version 2, reshard_after_forward false",
        raw="fully_shard(reshard_after_forward=False)",
        summary="FSDP2 that keeps parameters gathered between forward and backward (like ZeRO-2)",
    ),
    "fsdp_hybrid": Entry(
        target="fsdp:FSDP",
        grad_sync="every_micro_batch",
        preset={"shard_size": 0},
        lightning="FSDPStrategy(sharding_strategy='HYBRID_SHARD')",
        accelerate="FSDP, HYBRID_SHARD",
        raw="fully_shard on a 2-D (replicate, shard) mesh",
        summary="FSDP2 sharded inside groups and replicated between them (HSDP)",
    ),
    "fsdp_cpu_offload": Entry(
        target="fsdp:FSDP",
        grad_sync="every_micro_batch",
        preset={"cpu_offload": True},
        lightning="FSDPStrategy(cpu_offload=True)",
        accelerate="FSDP, fsdp_offload_params true",
        raw="fully_shard(offload_policy=CPUOffloadPolicy())",
        summary="FSDP2 with shards and optimizer on the CPU",
    ),
    "fsdp1": Entry(
        target="fsdp1:FSDP1",
        grad_sync="every_micro_batch",
        lightning="fsdp",
        accelerate="FSDP, fsdp_version 1",
        raw="torch.distributed.fsdp.FullyShardedDataParallel",
        summary="the classic FSDP wrapper, for comparison",
    ),
    **{
        f"deepspeed_stage_{stage}": Entry(
            target="deepspeed:DeepSpeed",
            preset={"stage": stage},
            needs="deepspeed",
            grad_sync="every_micro_batch" if stage >= 2 else "last",
            lightning=f"deepspeed_stage_{stage}" if stage else "DeepSpeedStrategy(stage=0)",
            accelerate=f"DEEPSPEED, zero_stage {stage}",
            raw=f"{_ZERO} {stage}",
            summary=summary,
        )
        for stage, summary in (
            (0, "DeepSpeed's engine without ZeRO: gradients all-reduced"),
            (1, "ZeRO-1: optimizer state sharded"),
            (2, "ZeRO-2: optimizer state and gradients sharded"),
            (3, "ZeRO-3: parameters sharded too"),
        )
    },
    **{
        f"deepspeed_stage_{stage}_offload": Entry(
            target="deepspeed:DeepSpeed",
            preset={"stage": stage, "offload": True},
            needs="deepspeed",
            grad_sync="every_micro_batch",
            lightning=f"deepspeed_stage_{stage}_offload",
            accelerate=f"DEEPSPEED, zero_stage {stage}, offload_optimizer_device cpu"
            + (", offload_param_device cpu" if stage == 3 else ""),
            raw=f"{_ZERO} {stage}, offload_optimizer" + (", offload_param" if stage == 3 else ""),
            summary=f"ZeRO-{stage} with the optimizer" + (" and parameters" if stage == 3 else "") + " on the CPU",
        )
        for stage in (2, 3)
    },
    "deepspeed": Entry(
        target="deepspeed:DeepSpeed",
        needs="deepspeed",
        grad_sync="every_micro_batch",
        lightning="deepspeed",
        accelerate="DEEPSPEED",
        raw="deepspeed.initialize",
        summary="stage 2, or the whole JSON given by --deepspeed-config",
    ),
    "lightning_ddp": Entry(
        target="lightning_ddp:LightningDDP",
        needs="lightning",
        wraps="ddp",
        grad_sync="last",
        lightning="Fabric(strategy='ddp')",
        raw="torch.nn.parallel.DistributedDataParallel",
        summary="ddp run by Lightning's Fabric",
    ),
    "lightning_fsdp": Entry(
        target="lightning_fsdp:LightningFSDP",
        needs="lightning",
        wraps="fsdp1",
        grad_sync="every_micro_batch",
        lightning="Fabric(strategy='fsdp')",
        raw="torch.distributed.fsdp.FullyShardedDataParallel",
        summary="fsdp1 run by Lightning's Fabric (GPUs only)",
    ),
    "lightning_model_parallel": Entry(
        target="lightning_model_parallel:LightningModelParallel",
        needs="lightning",
        wraps="fsdp",
        grad_sync="every_micro_batch",
        lightning="Fabric(strategy=ModelParallelStrategy(...))",
        raw="torch.distributed.fsdp.fully_shard",
        summary="fsdp run by Lightning's Fabric",
    ),
    "lightning_deepspeed_stage_2": Entry(
        target="lightning_deepspeed:LightningDeepSpeed",
        needs="lightning",
        wraps="deepspeed_stage_2",
        grad_sync="every_micro_batch",
        lightning="Fabric(strategy='deepspeed_stage_2')",
        raw=f"{_ZERO} 2",
        summary="deepspeed_stage_2 run by Lightning's Fabric (GPUs only)",
    ),
    "accelerate_ddp": Entry(
        target="accelerate_ddp:AccelerateDDP",
        needs="accelerate",
        wraps="ddp",
        grad_sync="last",
        accelerate="MULTI_GPU, MULTI_CPU",
        raw="torch.nn.parallel.DistributedDataParallel",
        summary="ddp run by Accelerate",
    ),
    "accelerate_fsdp": Entry(
        target="accelerate_fsdp:AccelerateFSDP",
        needs="accelerate",
        wraps="fsdp",
        grad_sync="every_micro_batch",
        accelerate="FSDP, fsdp_version 2",
        raw="torch.distributed.fsdp.fully_shard",
        summary="fsdp run by Accelerate (GPUs only)",
    ),
    "accelerate_deepspeed_stage_2": Entry(
        target="accelerate_deepspeed:AccelerateDeepSpeed",
        needs="accelerate",
        wraps="deepspeed_stage_2",
        grad_sync="every_micro_batch",
        accelerate="DEEPSPEED, zero_stage 2",
        raw=f"{_ZERO} 2",
        summary="deepspeed_stage_2 run by Accelerate (GPUs only)",
    ),
}


def entries() -> dict[str, Entry]:
    """Every known strategy by name: ours, then those installed packages declare (ours win a clash of names)."""
    found = {
        point.name: Entry(target=point.value, raw=point.value, summary=f"from the package of {point.value}")
        for point in entry_points(group=ENTRY_POINT_GROUP)
    }
    return found | BUILTIN


def entry(name: str) -> Entry:
    """The entry of `name`. Installed packages, a search of milliseconds, are asked only when it is not ours.
    KeyError."""
    return BUILTIN[name] if name in BUILTIN else entries()[name]


def strategy_class(name: str) -> type[Strategy]:
    """The class behind `name` (imports its module). KeyError for an unknown name, ImportError for a missing package."""
    module_name, _, class_name = entry(name).target.partition(":")
    package = __name__ if name in BUILTIN else None
    module = importlib.import_module(f".{module_name}" if package else module_name, package)
    return getattr(module, class_name)  # type: ignore[no-any-return]


def default_grad_sync(name: str) -> GradSync:
    """When strategy `name` reduces gradients unless asked otherwise. Imports torch only for a third party's."""
    return entry(name).grad_sync or strategy_class(name).default_grad_sync


def needs(name: str) -> str | None:
    """The package that strategy `name` takes beyond torch. Imports torch only for a third party's."""
    return BUILTIN[name].needs if name in BUILTIN else strategy_class(name).needs


def raw_name(name: str) -> str:
    """The strategy that a framework's strategy `name` wraps; any other is raw itself. KeyError."""
    return entry(name).wraps or name


def option_fields(name: str) -> dict[str, dataclasses.Field[Any]]:
    """The options of `--set strategy.NAME=VALUE`, by name, without those that the strategy's name already fixes."""
    fixed = entry(name).preset
    return {f.name: f for f in dataclasses.fields(strategy_class(name)) if f.name not in fixed}


def create(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy `name` with `options` over its preset. KeyError: unknown name; TypeError: unknown option."""
    return strategy_class(name)(**(dict(entry(name).preset) | dict(options or {})))
