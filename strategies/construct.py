"""How every strategy builds the model and its optimizer, in one order: meta -> checkpoint -> compile -> shard -> materialise.

Initial values come from the seed and the parameter's name alone, so that they are bit-equal whatever the backend, the
number of ranks or the sharding, and no rank ever holds more of the model than one full parameter beyond its own share.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .base import Workload
from .config import OptimizerConfig, TrainConfig


def build_on_meta(workload: Workload, config: TrainConfig) -> nn.Module:
    """The unwrapped module on the meta device, its blocks checkpointed and its regions compiled as `config` asks."""
    with torch.device("meta"):
        module = workload.build()
    transform_regions(module, workload, config)
    return module


def transform_regions(module: nn.Module, workload: Workload, config: TrainConfig) -> None:
    """Checkpoint blocks and compile regions in place; names, classes and the module tree stay as they were."""
    if config.activation_checkpointing:
        for name in workload.block_names(module):
            block = module.get_submodule(name)
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    if config.compile:
        for name in workload.compiled_names(module):
            module.get_submodule(name).compile(dynamic=False)


def replace_parameters(module: nn.Module, convert: Callable[[Tensor], Tensor]) -> None:
    """Replace every parameter and buffer by `convert` of it, tied ones by one and the same (`Module.to_empty` unties)."""
    memo: dict[int, Tensor] = {}
    for child in module.modules():
        for name, old in list(child.named_parameters(recurse=False, remove_duplicate=False)):
            new = memo.setdefault(id(old), nn.Parameter(convert(old.detach()), requires_grad=old.requires_grad))
            setattr(child, name, new)
        for name, buffer in list(child.named_buffers(recurse=False, remove_duplicate=False)):
            setattr(child, name, memo.setdefault(id(buffer), convert(buffer)))


def initial_value(workload: Workload, name: str, like: Tensor, seed: int, device: torch.device) -> Tensor:
    """The whole fp32 start value of parameter or buffer `name` on `device`; integer and boolean buffers keep their dtype."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
    value = torch.empty(like.shape, dtype=torch.float32 if like.is_floating_point() else like.dtype, device=device)
    with torch.no_grad():
        workload.init_parameter_(name, value, generator)
    return value


def materialise_(module: nn.Module, workload: Workload, config: TrainConfig, device: torch.device) -> None:
    """Give an unsharded meta module memory on `device`, in the precision's parameter dtype, and its seeded start values."""
    dtype = parameter_dtype(config)
    replace_parameters(module, lambda old: torch.empty(old.shape, dtype=stored_dtype(old, dtype), device=device))
    with torch.no_grad():
        for name, tensor in named_state(module):
            tensor.copy_(initial_value(workload, name, tensor, config.seed, device))


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
    """Two groups, with and without weight decay, in the order of `named_parameters` (names as in the unwrapped module)."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (plain if name in no_decay else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(groups: list[dict[str, object]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The one optimizer implementation of the `matched` profile: torch's fused kernels, on CUDA and CPU alike."""
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
