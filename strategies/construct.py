"""How every strategy builds model and optimizer, in one order: meta -> checkpoint -> compile -> shard -> materialise.

Initial values come from the seed and the parameter's name alone, so that they are bit-equal whatever the backend, the
number of ranks or the sharding, and no rank ever holds more of the model than one full parameter beyond its own share.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.utils.checkpoint import checkpoint

from .base import Workload
from .config import OptimizerConfig, TrainConfig

REPRODUCIBLE_WORKSPACE = ":4096:8"
"""Of the two sizes of cuBLAS's workspace with which it promises the same bits, the faster one."""


def build_on_meta(workload: Workload, config: TrainConfig) -> nn.Module:
    """The unwrapped module on the meta device, its blocks checkpointed and its regions compiled as `config` asks."""
    with torch.device("meta"):
        module = workload.build()
    transform_regions(module, workload, config)
    return module


def transform_regions(module: nn.Module, workload: Workload, config: TrainConfig) -> None:
    """Checkpoint blocks and compile regions in place; names, classes and the module tree stay as they were.

    Only `forward` is replaced, so that the hooks by which wrappers gather and reduce stay outside of both.
    """
    if config.activation_checkpointing:
        for name in workload.block_names(module):
            block = module.get_submodule(name)
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    if config.compile:
        for name in workload.compiled_names(module):
            region = module.get_submodule(name)
            region.forward = torch.compile(region.forward, dynamic=False)


def allocate_(module: nn.Module, empty: Callable[[Tensor], Tensor]) -> None:
    """Replace every meta parameter and buffer by `empty` of it; tied ones stay tied (`Module.to_empty` unties them)."""
    memo: dict[int, Tensor] = {}
    for child in module.modules():
        for name, old in _meta(child.named_parameters(recurse=False, remove_duplicate=False)):
            new = memo.setdefault(id(old), nn.Parameter(empty(old.detach()), requires_grad=old.requires_grad))
            setattr(child, name, new)
        for name, old in _meta(child.named_buffers(recurse=False, remove_duplicate=False)):
            setattr(child, name, memo.setdefault(id(old), empty(old)))


def _meta(named: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in named if tensor.is_meta]


def initial_value(workload: Workload, name: str, like: Tensor, seed: int, device: torch.device) -> Tensor:
    """The whole start value of parameter or buffer `name` on `device`: fp32 unless it is an integer or boolean."""
    generator = torch.Generator(device).manual_seed(stable_seed(f"{seed}:{name}"))
    value = torch.empty(like.shape, dtype=torch.float32 if like.is_floating_point() else like.dtype, device=device)
    with torch.no_grad():
        workload.init_parameter_(name, value, generator)
    return value


def materialise_(
    module: nn.Module,
    workload: Workload,
    config: TrainConfig,
    device: torch.device,
    *,
    prefix: str = "",
    offload: bool = False,
) -> None:
    """Give a module's meta tensors memory, in the precision's parameter dtype, and start values. No communication.

    Of a DTensor only the local shard is allocated, and one whole parameter at a time is drawn to fill it. Values are
    drawn on `device`, since random streams differ between devices, and kept there; with `offload` what is sharded is
    kept on the CPU. Buffers, which no backend moves, stay where the model computes.

    Args:
        prefix: what stands before the names of `module`'s parameters in the whole unwrapped module.
    """
    dtype = parameter_dtype(config)
    names = [name for name, _ in _meta(named_state(module))]

    def empty(old: Tensor) -> Tensor:
        home = torch.device("cpu") if offload and isinstance(old, DTensor) else device
        return torch.empty_like(old, dtype=stored_dtype(old, dtype), device=home)

    allocate_(module, empty)
    state = dict(named_state(module))
    with torch.no_grad():
        for name in names:
            value = initial_value(workload, prefix + name, state[name], config.seed, device)
            local_part(state[name]).copy_(local_part(value, like=state[name]))


def local_part(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """This rank's shard of `tensor`, or the shard it would have if laid out as `like`; all of it if not sharded."""
    if isinstance(like, DTensor):
        # Every rank holds the same value and keeps its own part of it, so nothing is sent.
        replicated = [Replicate()] * like.device_mesh.ndim
        replicas = DTensor.from_local(tensor, like.device_mesh, replicated, run_check=False)
        tensor = replicas.redistribute(placements=like.placements)
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def named_state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then buffers, each once."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def stored_dtype(tensor: Tensor, parameter: torch.dtype) -> torch.dtype:
    """`parameter` for floating-point tensors, their own dtype for others."""
    return parameter if tensor.is_floating_point() else tensor.dtype


def parameter_dtype(config: TrainConfig) -> torch.dtype:
    """The dtype parameters are stored in: 16-bit only for the `-true` precisions."""
    return {"fp16-true": torch.float16, "bf16-true": torch.bfloat16}.get(config.precision, torch.float32)


def compute_dtype(config: TrainConfig) -> torch.dtype:
    """The dtype matrix products compute in."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(config.precision.removesuffix("-true"), torch.float32)


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], no_decay: set[str], config: OptimizerConfig
) -> list[dict[str, object]]:
    """Two groups, with and without weight decay, in order; names are those of the unwrapped module."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (plain if name in no_decay else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(groups: list[dict[str, object]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The one implementation for all strategies: fused AdamW, or SGD over lists (fused, it refuses DTensors)."""
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, foreach=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def prepare_process(config: TrainConfig) -> None:
    """Set what torch keeps per process: its switches, and the dropout seed, different on every rank."""
    _switch_deterministic(config.deterministic)
    torch.backends.cudnn.benchmark = config.cudnn_benchmark
    torch.autograd.set_detect_anomaly(config.detect_anomaly)
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = config.tf32
    rank = dist.get_rank() if dist.is_initialized() else 0
    torch.manual_seed(stable_seed(f"{config.seed}:dropout:{rank}"))


def _switch_deterministic(on: bool) -> None:
    if on:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = REPRODUCIBLE_WORKSPACE  # read when cuBLAS is first used
    if on != torch.are_deterministic_algorithms_enabled():  # telling torch twice would import its compiler
        torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.deterministic = on


def stable_seed(text: str) -> int:
    """A 63-bit seed that depends on `text` alone, in every process and Python."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
