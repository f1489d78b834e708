"""FSDP2 (fully_shard): every parameter, its gradient and its optimizer state are sharded over the ranks, dimension 0.

Each block is gathered just before it computes, and its gradients are reduced and scattered right after its backward.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from .base import Strategy, Workload
from .config import Casting, GradSync, TrainConfig
from .construct import build_on_meta, build_optimizer, compute_dtype, materialise_, parameter_groups, prepare_process
from .loss_scaling import LossScaler
from .torch_step import SyncContext, TorchStep, clip_by_global_norm

PICK = 0


@dataclass(frozen=True, kw_only=True)
class FSDP(Strategy):
    """torch.distributed.fsdp.fully_shard on each block and on the root.

    Options:
        reshard_after_forward: free a block's gathered parameters after its forward pass (True, like ZeRO-3), keep them
            for the backward pass (False, like ZeRO-2), or keep them sharded over this many ranks (a divisor of the
            ranks). The root is never resharded in between.
        shard_size: ranks per group that share one copy of the parameters (HSDP: groups hold replicas of each other).
            0 picks the ranks of one node, or half of them where there is only one node. By default all ranks.
        cpu_offload: keep shards, gradients and optimizer on the CPU.
        prefetch: blocks gathered ahead by explicit order in forward and backward; 0 leaves it to FSDP2.
    """

    name: ClassVar[str] = "fsdp"
    casting: ClassVar[Casting] = "sharded-cast"
    default_grad_sync: ClassVar[GradSync] = "every_micro_batch"

    reshard_after_forward: bool | int = True
    shard_size: int | None = None
    cpu_offload: bool = False
    prefetch: int = 0

    @property
    def offloads(self) -> bool:
        return self.cpu_offload

    def unsupported_reason(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        group = self.ranks_per_group(world_size)
        if group is None:
            return f"{world_size} ranks cannot be halved into two groups that shard alike; use an even number, or fsdp"
        if self.prefetch < 0:
            return f"prefetch is a number of blocks, not {self.prefetch}"
        return (
            _too_old_for(device_type)
            or _indivisible("shard_size", group, world_size)
            or _indivisible("reshard_after_forward", self.reshard_after_forward, group)
        )

    def unmatched(self, config: TrainConfig, device_type: str, world_size: int) -> tuple[str, ...]:
        if config.profile != "matched":
            return ()
        reasons = ["gradients are reduced block by block rather than in 25 MiB buckets"]
        if config.mixed:
            reasons.append("whole parameters are cast, so layers that autocast keeps in fp32 compute in 16 bit too")
        if self.cpu_offload:
            reasons.append("the optimizer runs on the CPU")
        return tuple(reasons)

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TorchStep:
        module = build_on_meta(workload, config)
        no_decay = workload.no_decay_names(module)
        self.shard(module, workload.block_names(module), config, self._mesh(device))
        materialise_(module, workload, config, device, offload=self.cpu_offload)
        groups = parameter_groups(module.named_parameters(), no_decay, config.optimizer)
        prepare_process(config)
        return TorchStep(
            module=module,
            optimizer=build_optimizer(groups, config.optimizer),
            config=config,
            device=device,
            whole_parameters=lambda: whole_parameters(module, device),
            clip=clip_by_global_norm(list(module.parameters())),
            scaler=LossScaler(config, torch.device("cpu") if self.cpu_offload else device),
            sync=_sync(module),
            autocast=False,
            after_inference=lambda: reshard(module),
        )

    def shard(self, module: nn.Module, block_names: list[str], config: TrainConfig, mesh: DeviceMesh) -> None:
        """Shard each block and the root of `module` over `mesh`, in place."""
        options: dict[str, Any] = {"mesh": mesh, "mp_policy": mixed_precision(config)}
        if self.cpu_offload:
            options["offload_policy"] = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
        blocks = [
            fully_shard(module.get_submodule(name), reshard_after_forward=self.reshard_after_forward, **options)
            for name in block_names
        ]
        fully_shard(module, **options)
        if self.prefetch:
            _set_prefetch(blocks, self.prefetch)

    def _mesh(self, device: torch.device) -> DeviceMesh:
        world = dist.get_world_size()
        if self.shard_size is None:
            return init_device_mesh(device.type, (world,))
        group = self.ranks_per_group(world)
        assert group is not None, "unsupported_reason has refused this"
        return init_device_mesh(device.type, (world // group, group), mesh_dim_names=("replicate", "shard"))

    def ranks_per_group(self, world_size: int) -> int | None:
        """Ranks per shard group; None when half of an odd number of ranks would be picked."""
        if self.shard_size != PICK:
            return world_size if self.shard_size is None else self.shard_size
        per_node = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        if per_node < world_size:
            return per_node
        return None if world_size % 2 else world_size // 2


def _too_old_for(device_type: str) -> str | None:
    """FSDP2 asks the device's streams for events, which torch's CPU streams have since torch 2.7."""
    if device_type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        return f"FSDP2 does not run on a CPU with torch {torch.__version__}: install torch>=2.7, or use fsdp1"
    return None


def _indivisible(option: str, group: bool | int, ranks: int) -> str | None:
    """Why `ranks` ranks do not fall into groups of `group`; True and False ask for no groups."""
    if isinstance(group, bool) or (group >= 1 and ranks % group == 0):
        return None
    divisors = ", ".join(str(size) for size in range(1, ranks + 1) if ranks % size == 0)
    return f"{option} asks for groups of {group} ranks, which {ranks} ranks do not fall into; use one of {divisors}"


def mixed_precision(config: TrainConfig) -> MixedPrecisionPolicy:
    """fp32 shards cast to 16 bit when gathered; gradients reduced in fp32, or as cast, which is how FSDP2 ships."""
    if not config.mixed:
        return MixedPrecisionPolicy()
    reduce_dtype = torch.float32 if config.profile == "matched" else None
    return MixedPrecisionPolicy(param_dtype=compute_dtype(config), reduce_dtype=reduce_dtype)


def _set_prefetch(blocks: list[FSDPModule], ahead: int) -> None:
    for ordered, setter in (
        (blocks, FSDPModule.set_modules_to_forward_prefetch),
        (blocks[::-1], FSDPModule.set_modules_to_backward_prefetch),
    ):
        for index, block in enumerate(ordered):
            setter(block, ordered[index + 1 : index + 1 + ahead])


def _sync(module: nn.Module) -> SyncContext:
    assert isinstance(module, FSDPModule)

    def sync(crosses_ranks: bool, last: bool) -> AbstractContextManager[object]:
        module.set_requires_gradient_sync(crosses_ranks)
        module.set_is_last_backward(last)
        return nullcontext()

    return sync


def reshard(module: nn.Module) -> None:
    """Free what a forward pass without a backward pass left gathered: it would outlive the next update."""
    for child in module.modules():
        if isinstance(child, FSDPModule):
            child.reshard()


def whole_parameters(module: nn.Module, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of a sharded module whole, one at a time. Collective."""
    for name, parameter in module.named_parameters():
        sharded = parameter.detach().to(device)
        assert isinstance(sharded, DTensor)
        yield name, sharded.full_tensor()
