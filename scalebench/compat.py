"""Every private torch API that scalebench itself touches, in one place, each with the reason why."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils._pytree import tree_leaves


def compiled_graphs() -> int:
    """Distinct graphs that torch.compile has made in this process; its own count is the only one."""
    utils = sys.modules.get("torch._dynamo.utils")
    return int(utils.counters["stats"]["unique_graphs"]) if utils else 0


def backward_node() -> tuple[int, int] | None:
    """The backward pass and the node of it that this thread is working on; None outside of one.

    A forward pass that runs inside a node is a recomputation. No public function tells.
    """
    task = torch._C._current_graph_task_id()
    if task == -1:
        return None
    return task, torch._C._current_autograd_node()._sequence_nr()


def group_size(arguments: tuple[Any, ...]) -> int:
    """Ranks of the process group among a collective operator's arguments: an object, or a functional one's name."""
    for argument in arguments:
        if isinstance(argument, torch.ScriptObject):
            with contextlib.suppress(RuntimeError):  # some other object of torch's, such as the reduction
                return int(dist.ProcessGroup.unbox(argument).size())
        if isinstance(argument, str):
            with contextlib.suppress(LookupError, RuntimeError, ValueError):  # a reduction's name
                resolve: Any = vars(dist.distributed_c10d)["_resolve_process_group"]
                return int(resolve(argument).size())
    return dist.get_world_size()


def default_store() -> Any:
    """The store through which the ranks met; there is no public way to it."""
    get: Any = vars(dist.distributed_c10d)["_get_default_store"]
    return get()


def limit_waits(seconds: float) -> None:
    """Let no collective of any process group of this rank wait for longer: those that a backend makes for itself have
    torch's default of 10 or 30 minutes. The public time-out is for groups that are about to be made."""
    if dist.is_initialized():
        set_timeout: Any = vars(dist.distributed_c10d)["_set_pg_timeout"]
        for group in vars(dist.distributed_c10d)["_world"].pg_map:
            set_timeout(timedelta(seconds=seconds), group)


def parameter_shards(parameters: Iterable[Tensor]) -> list[Tensor]:
    """This rank's shards of those parameters that ZeRO-3 has taken apart: the parameters themselves are empty then."""
    shards = (getattr(parameter, "ds_tensor", None) for parameter in parameters)
    return [shard for shard in shards if shard is not None]


def gradient_buffers(module: nn.Module) -> list[Tensor]:
    """Where DeepSpeed's optimizers gather gradients apart from the parameters; empty for everything else."""
    wrapper = getattr(module, "optimizer", None)
    names = ("averaged_gradients", "all_grad_tensors", "grad_partitions_flat_buffer", "fp32_groups_gradients_flat")
    leaves = tree_leaves([getattr(wrapper, name, None) for name in names])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def bucket_buffers(module: nn.Module) -> list[Tensor]:
    """Buffers of fixed size into which ZeRO copies gradients to be reduced together; empty for everything else."""
    buckets = getattr(getattr(module, "optimizer", None), "ipg_buckets", None) or {}
    leaves = tree_leaves([getattr(bucket, "buffer", None) for bucket in buckets.values()])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def offloads_to_cpu(module: nn.Module) -> bool:
    """Whether a wrapped module's backend keeps optimizer state on the CPU, asked of the wrapper itself.

    Where the model computes on the CPU too, no tensor's device can tell. False for wrappers that cannot offload.
    """
    if isinstance(module, FSDPModule):
        group: Any = module._get_fsdp_state()._fsdp_param_group
        return any(parameter.offload_to_cpu for parameter in group.fsdp_params) if group else False
    engines_optimizer = getattr(module, "optimizer", None)  # DeepSpeed's engine; ZeRO-1/2 and ZeRO-3 say it differently
    return any(getattr(engines_optimizer, name, False) is True for name in ("cpu_offload", "offload_optimizer"))
