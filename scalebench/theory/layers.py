"""A network as the list of its layers: what it has of parameters, and what it needs of floating-point operations.

A multiply-add counts as two. The backward pass needs as much again for the gradient of the weights, and once more for
that of the input, which the layers that read the data spare. A padded zero counts as any other value, as it does in the
kernels. Norms, activations, pooling, resampling and biases are left out (below 1% of these networks).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or linear layer with the norm beside it, or an attention.

    Attributes:
        weights: elements of its weight.
        vectors: elements of its bias and of the norm's gain and bias.
        positions: how often the weight is used on one sample: the pixels of its output; 1 for a linear layer.
        activations: multiply-adds of activations with each other on one sample: an attention's two products.
        reads_data: its input is the data, whose gradient nobody needs.
        recomputed: checkpointing its block runs it again.
    """

    weights: int = 0
    vectors: int = 0
    positions: int = 1
    activations: int = 0
    reads_data: bool = False
    recomputed: bool = False

    @property
    def forward_flops(self) -> int:
        """FLOPs of one sample's forward pass."""
        return 2 * (self.weights * self.positions + self.activations)


def parameters(layers: Iterable[Layer]) -> int:
    """Trained elements."""
    return sum(layer.weights + layer.vectors for layer in layers)


def training_flops(layers: Iterable[Layer]) -> int:
    """FLOPs of forward plus backward for one sample, recomputation not counted."""
    return sum(layer.forward_flops * (2 if layer.reads_data else 3) for layer in layers)


def recomputed_flops(layers: Iterable[Layer]) -> int:
    """FLOPs that checkpointing every block adds to one sample."""
    return sum(layer.forward_flops for layer in layers if layer.recomputed)


def attention(channels: int, positions: int) -> Layer:
    """Scores and weighted sum of one attention over all `positions`, of `channels` in all heads together."""
    return Layer(activations=2 * channels * positions**2, recomputed=True)
