"""What one loss and its gradients show of a user's model before anything is launched: does it work, what does it cost.

On meta tensors, which take neither memory nor time; a model whose forward looks at values runs for real on the CPU. So
does, forwards alone, every model that is not too large for it, since meta tensors forgive wrong dtypes and targets.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scalebench.adapters.importing import told
from scalebench.adapters.randomness import kept_apart, seed_all
from scalebench.errors import UserError, with_article
from scalebench.strategies.base import Batch

LARGEST = 100_000_000
"""Parameters of a model that is tried with values: a larger one would take long on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was seen.

    Attributes:
        flops_per_sample: of forward and backward, as FlopCounterMode counts them; None when it saw none.
        unused: trainable parameters that the loss does not depend on.
    """

    flops_per_sample: float | None
    unused: tuple[str, ...]


def inspect_model(name: str, root: nn.Module, batch: Batch) -> Inspection:
    """Run the loss of `root` on `batch`, and its backward pass. Raises UserError for what cannot be trained."""
    with kept_apart():
        seed_all("inspection")
        try:
            found = _inspected(name, on_meta(root), {key: tensor.to("meta") for key, tensor in batch.items()})
        except UserError:
            raise
        except Exception:  # whatever goes wrong with tensors that have no values
            with told(name):
                return _inspected(name, copy.deepcopy(root), batch)
        if can_be_tried(root):
            with told(name):
                _require_loss(name, copy.deepcopy(root).train()(batch))
        return found


def can_be_tried(root: nn.Module) -> bool:
    """Whether `root` is small enough to run on a CPU before every launch."""
    return sum(parameter.numel() for parameter in root.parameters()) <= LARGEST


def _inspected(name: str, root: nn.Module, batch: Batch) -> Inspection:
    root.train()
    # Attention as matrix products, which the counter knows on every device: full, not causal.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = root(batch)
        _require_loss(name, loss)
        loss.backward()
    samples = next(iter(batch.values())).size(0)
    _require_dense(name, root)
    unused = [key for key, one in root.named_parameters() if one.requires_grad and one.grad is None]
    return Inspection(flops_per_sample=counter.get_total_flops() / samples or None, unused=tuple(unused))


def _require_loss(name: str, loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.dim():
        is_tensor = isinstance(loss, Tensor)
        got = f"a tensor of shape {tuple(loss.shape)}" if is_tensor else with_article(type(loss).__name__)
        raise UserError(f"the loss of {name} is {got}; it must be a scalar tensor, the mean over the batch.")
    if not loss.requires_grad:
        raise UserError(f"the loss of {name} depends on no trainable parameter.")
    if loss.device.type != "meta" and not torch.isfinite(loss):
        raise UserError(f"the loss of {name} on its first samples is {loss.item()}, so it cannot be trained.")


def _require_dense(name: str, root: nn.Module) -> None:
    sparse = [key for key, one in root.named_parameters() if one.grad is not None and one.grad.is_sparse]
    if sparse:
        raise UserError(
            f"{name}: the gradient of {sparse[0]} is sparse, which is neither clipped nor sharded. Give sparse=False."
        )


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of `module` whose parameters and buffers are on the meta device, tied ones tied."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(_empty(parameter), requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = _empty(buffer)
    with torch.device("cpu"):  # what else it holds is copied as it is
        return copy.deepcopy(module, memo)


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta", requires_grad=False)


def state_of(module: nn.Module) -> Mapping[str, Tensor]:
    """Every parameter and buffer by name, each once."""
    return {name: value.detach() for name, value in [*module.named_parameters(), *module.named_buffers()]}
