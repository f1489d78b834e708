"""Two small image classifiers, layer by layer: a perceptron, and a few convolutions before it."""

from __future__ import annotations

from collections.abc import Iterator

from scalebench.theory.layers import Layer


def mlp_layers(*, pixels: int, num_layers: int, hidden_size: int, num_classes: int) -> Iterator[Layer]:
    """`num_layers` linear layers of `hidden_size` on `pixels` values, and the classifier."""
    inputs = pixels
    for index in range(num_layers):
        yield _linear(inputs, hidden_size, reads_data=not index, recomputed=True)
        inputs = hidden_size
    yield _linear(inputs, num_classes)


def conv_layers(
    *, image_size: int, channels: int, width: int, num_layers: int, hidden_size: int, num_classes: int
) -> Iterator[Layer]:
    """Unpadded 3x3 convolutions to `width`, then twice that; pooling 2x2; a linear layer and the classifier."""
    inputs, side = channels, image_size
    for index in range(num_layers):
        outputs, side = width if not index else 2 * width, side - 2
        weights = inputs * outputs * 9
        yield Layer(weights=weights, vectors=outputs, positions=side**2, reads_data=not index, recomputed=True)
        inputs = outputs
    yield _linear(inputs * (side // 2) ** 2, hidden_size)
    yield _linear(hidden_size, num_classes)


def _linear(inputs: int, outputs: int, *, reads_data: bool = False, recomputed: bool = False) -> Layer:
    return Layer(weights=inputs * outputs, vectors=outputs, reads_data=reads_data, recomputed=recomputed)
