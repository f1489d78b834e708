"""Whether a user's model runs where parameters and inputs are 16 bit and buffers are not, tried before launch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from scalebench.adapters.nested import cast
from scalebench.adapters.randomness import kept_apart, seed_all
from scalebench.strategies.base import Batch


def failure_when_cast(root: nn.Module, batch: Batch, blocks: Sequence[str]) -> str | None:
    """What the loss, which works in float32, raises in bfloat16, as a clause; None when it raises nothing.

    Args:
        blocks: modules whose inputs are cast too, which is what FSDP does, and ZeRO does not.
    """
    with kept_apart(), torch.no_grad():
        seed_all("inspection")
        try:
            _cast(root, blocks).train()(cast(dict(batch), torch.bfloat16))
        except Exception as error:
            return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".: ")
    return None


def _cast(root: nn.Module, blocks: Sequence[str]) -> nn.Module:
    short = copy.deepcopy(root)
    for parameter in short.parameters():
        parameter.data = cast(parameter.data, torch.bfloat16)
    for name in blocks:
        short.get_submodule(name).register_forward_pre_hook(_cast_inputs, with_kwargs=True)
    return short


def _cast_inputs(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return cast(args, torch.bfloat16), cast(kwargs, torch.bfloat16)
