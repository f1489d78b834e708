"""From a module on the meta device to a DeepSpeed engine that is what was asked for, with the seeded start values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import compat
from .base import Workload
from .config import TrainConfig
from .construct import allocate_, initial_value, materialise_, named_state, parameter_dtype, stored_dtype
from .deepspeed_config import Plan

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def largest_block(module: nn.Module, workload: Workload) -> int | None:
    """Parameters (elements) of the largest of the workload's repeated blocks; None without blocks."""
    blocks = [module.get_submodule(name) for name in workload.block_names(module)]
    return max((sum(p.numel() for p in block.parameters()) for block in blocks), default=None)


def fill_(deepspeed: Any, module: nn.Module, workload: Workload, plan: Plan, device: torch.device) -> None:
    """Give a meta module memory and its seeded start values: partitioned at stage 3, whole below."""
    if plan.stage == 3:
        _partition_(deepspeed, module, workload, plan, device)
    else:
        materialise_(module, workload, plan.config, device)


def _partition_(deepspeed: Any, module: nn.Module, workload: Workload, plan: Plan, device: torch.device) -> None:
    """One parameter after another gets its values and is partitioned, so that no rank ever holds two whole ones.

    `zero.Init` as a context around the building would draw its own random values, and let rank 0's win. It would also
    cast buffers, which the engine leaves as they are at the other stages.
    """
    shapes = dict(named_state(module))
    stored, cast = parameter_dtype(plan.config), DTYPES[plan.parameter_dtype]
    allocate_(module, lambda old: torch.empty(0, dtype=stored_dtype(old, stored), device=device))
    for name, tensor in named_state(module):
        value = initial_value(workload, name, shapes[name], plan.config.seed, device)
        parameter = isinstance(tensor, nn.Parameter)
        tensor.data = value.to(stored_dtype(value, cast if parameter else stored))
        if parameter:
            deepspeed.zero.Init(module=nn.ParameterList([tensor]), config_dict_or_path=plan.json)
    if plan.config.compile:
        # Gathered as a whole, outside of the compiled code, which the hooks of its parts would break into pieces.
        for name in workload.compiled_names(module):
            deepspeed.utils.set_z3_leaf_module(module.get_submodule(name), True)


@torch.no_grad()
def restore_masters_(
    deepspeed: Any, module: nn.Module, workload: Workload, config: TrainConfig, device: torch.device
) -> None:
    """Write the fp32 start values into the masters, which the engine made from 16-bit parameters."""
    for name, parameter in module.named_parameters():
        shape = torch.empty(getattr(parameter, "ds_shape", parameter.shape), device="meta")
        value = initial_value(workload, name, shape, config.seed, device)
        if hasattr(parameter, "ds_tensor"):
            deepspeed.utils.safe_set_local_fp32_param(parameter, _own_partition(value, parameter))
        else:
            deepspeed.utils.safe_set_full_fp32_param(parameter, value)


def _own_partition(value: Tensor, parameter: Any) -> Tensor:
    """The part of `value` that this rank holds of a ZeRO-3 parameter, padded as DeepSpeed pads its last one."""
    size = parameter.ds_tensor.numel()
    start = size * torch.distributed.get_rank()
    part = value.flatten()[start : start + size]
    return nn.functional.pad(part, (0, size - part.numel()))


def verify(engine: Any, optimizer: torch.optim.Optimizer, plan: Plan) -> None:
    """Raise RuntimeError, saying asked and got, unless the engine is what was asked for."""
    asked, got = _asked(optimizer, plan), _got(engine)
    wrong = [f"{what}: asked {asked[what]}, got {got[what]}" for what in asked if asked[what] != got[what]]
    if wrong:
        raise RuntimeError("DeepSpeed's engine is not what was asked for. " + "; ".join(wrong))


def _asked(optimizer: torch.optim.Optimizer, plan: Plan) -> dict[str, object]:
    return {
        "ZeRO stage": plan.stage,
        "optimizer wrapper": plan.wrapper or type(optimizer).__name__,
        "optimizer": type(optimizer).__name__,
        "offload": plan.offload,
        "parameter dtype": str(DTYPES[plan.parameter_dtype]),
        "autocast": plan.autocast,
        "micro-batch": plan.config.micro_batch,
        "accumulation": plan.config.accumulation,
        "ranks": plan.world_size,
    }


def _got(engine: Any) -> dict[str, object]:
    return {
        "ZeRO stage": int(engine.zero_optimization_stage()),
        "optimizer wrapper": type(engine.optimizer).__name__,
        "optimizer": type(engine.basic_optimizer).__name__,
        "offload": compat.is_offloaded(engine),
        "parameter dtype": " and ".join(sorted({str(p.dtype) for p in engine.module.parameters()})),
        "autocast": compat.autocast_dtype(engine),
        "micro-batch": engine.train_micro_batch_size_per_gpu(),
        "accumulation": engine.gradient_accumulation_steps(),
        "ranks": torch.distributed.get_world_size(),
    }
