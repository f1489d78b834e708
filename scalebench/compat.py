"""Every private torch API that scalebench itself touches, in one place, each with the reason why."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule


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


def offloads_to_cpu(module: nn.Module) -> bool:
    """Whether a wrapped module's backend keeps optimizer state on the CPU, asked of the wrapper itself.

    Where the model computes on the CPU too, no tensor's device can tell. False for wrappers that cannot offload.
    """
    if isinstance(module, FSDPModule):
        group: Any = module._get_fsdp_state()._fsdp_param_group
        return any(parameter.offload_to_cpu for parameter in group.fsdp_params) if group else False
    engines_optimizer = getattr(module, "optimizer", None)  # DeepSpeed's engine; ZeRO-1/2 and ZeRO-3 say it differently
    return any(getattr(engines_optimizer, name, False) is True for name in ("cpu_offload", "offload_optimizer"))
