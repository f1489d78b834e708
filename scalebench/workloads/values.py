"""Start values and pixel values that the image workloads share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

HE = 2.0
"""Gain of a layer with a rectifier after it (He et al. 2015, arXiv:1502.01852)."""
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
ZERO_AT_START = ("bias", "running_mean", "num_batches_tracked")


def init_layer_(name: str, tensor: Tensor, generator: torch.Generator, gain: float = HE) -> None:
    """The start of a parameter or buffer of a convolution, linear layer or norm, told by its name and shape.

    Weights are N(0, gain / fan_in), biases and running means 0, norm gains and running variances 1.
    """
    if tensor.ndim > 1:
        tensor.normal_(0.0, math.sqrt(gain / tensor[0].numel()), generator=generator)
    elif name.endswith(ZERO_AT_START):
        tensor.zero_()
    else:
        tensor.fill_(1.0)


def from_bytes(images: Tensor) -> Tensor:
    """uint8 pixels as float32 from -1 to 1."""
    return images.float() / 127.5 - 1.0


def to_bytes(images: Tensor) -> Tensor:
    """Pixels from -1 to 1, cut there, as uint8."""
    return ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
