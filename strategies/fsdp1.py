"""FSDP1, the classic FullyShardedDataParallel wrapper: each block is one flat parameter, sharded evenly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy

from .base import Strategy, Workload
from .config import Casting, GradSync, TrainConfig
from .construct import build_on_meta, build_optimizer, compute_dtype, materialise_, parameter_groups, prepare_process
from .loss_scaling import LossScaler
from .torch_step import SyncContext, TorchStep

Sharding = Literal["FULL_SHARD", "SHARD_GRAD_OP"]
WRAPPED = "_fsdp_wrapped_module."


@dataclass(frozen=True, kw_only=True)
class FSDP1(Strategy):
    """torch.distributed.fsdp.FullyShardedDataParallel on each block and on the root, with use_orig_params.

    Options:
        sharding_strategy: FULL_SHARD frees a block's gathered parameters after its forward pass (like ZeRO-3),
            SHARD_GRAD_OP keeps them for the backward pass (like ZeRO-2).
        forward_prefetch: gather the next block before the current one computes.
    """

    name: ClassVar[str] = "fsdp1"
    casting: ClassVar[Casting] = "sharded-cast"
    default_grad_sync: ClassVar[GradSync] = "every_micro_batch"

    sharding_strategy: Sharding = "FULL_SHARD"
    forward_prefetch: bool = False

    def unsupported_reason(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        allowed = get_args(Sharding)
        if self.sharding_strategy not in allowed:
            return f"sharding_strategy is one of {', '.join(allowed)}, not {self.sharding_strategy!r}"
        return None

    def unmatched(self, config: TrainConfig, device_type: str, world_size: int) -> tuple[str, ...]:
        if config.profile != "matched":
            return ()
        reasons = ["gradients are reduced block by block rather than in 25 MiB buckets"]
        if config.mixed:
            reasons.append("whole parameters are cast, so layers that autocast keeps in fp32 compute in 16 bit too")
            if config.accumulation > 1 and config.grad_sync == "last":
                reasons.append("gradients of a step's micro-batches are added up in 16 bit before they are reduced")
        return tuple(reasons)

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TorchStep:
        inner = build_on_meta(workload, config)
        no_decay = workload.no_decay_names(inner)
        module = self._wrap(inner, workload, config, device)
        named = [(name.replace(WRAPPED, ""), parameter) for name, parameter in module.named_parameters()]
        prepare_process(config)
        return TorchStep(
            module=module,
            optimizer=build_optimizer(parameter_groups(named, no_decay, config.optimizer), config.optimizer),
            config=config,
            device=device,
            whole_parameters=lambda: whole_parameters(module),
            clip=module.clip_grad_norm_,
            scaler=LossScaler(config, device, agree=True),
            sync=_sync(module),
            autocast=False,
        )

    def _wrap(
        self, inner: nn.Module, workload: Workload, config: TrainConfig, device: torch.device
    ) -> FullyShardedDataParallel:
        """Materialise and shard block by block, so that no rank ever holds more than one block beyond its shards."""
        options: dict[str, Any] = {
            "sharding_strategy": ShardingStrategy[self.sharding_strategy],
            "mixed_precision": mixed_precision(config),
            "forward_prefetch": self.forward_prefetch,
            "device_id": device,
            "use_orig_params": True,
        }
        for name in workload.block_names(inner):
            block = inner.get_submodule(name)
            materialise_(block, workload, config, device, prefix=f"{name}.")
            inner.set_submodule(name, FullyShardedDataParallel(block, **options))
        materialise_(inner, workload, config, device)
        return FullyShardedDataParallel(inner, **options)


def mixed_precision(config: TrainConfig) -> MixedPrecision | None:
    """fp32 shards cast to 16 bit when gathered; gradients reduced in fp32, or as cast, which is how FSDP ships."""
    if not config.mixed:
        return None
    reduce_dtype = torch.float32 if config.profile == "matched" else None
    return MixedPrecision(param_dtype=compute_dtype(config), reduce_dtype=reduce_dtype)


def _sync(module: FullyShardedDataParallel) -> SyncContext:
    alone = dist.get_world_size() == 1  # no_sync would save nothing, and fails there with 16-bit tied parameters

    def sync(crosses_ranks: bool, last: bool) -> AbstractContextManager[object]:
        return nullcontext() if crosses_ranks or alone else module.no_sync()

    return sync


def whole_parameters(module: FullyShardedDataParallel) -> Iterator[tuple[str, Tensor]]:
    """Every parameter whole. One unit is gathered at a time; of its parameters those that belong to no inner unit."""
    for prefix, unit in module.named_modules():
        if isinstance(unit, FullyShardedDataParallel):
            outer = f"{prefix}.".replace(WRAPPED, "").lstrip(".")
            with FullyShardedDataParallel.summon_full_params(unit, recurse=False, writeback=False):
                for name, parameter in unit.module.named_parameters():
                    if WRAPPED not in name:
                        yield outer + name, parameter
