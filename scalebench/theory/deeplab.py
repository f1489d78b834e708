"""DeepLabV3 on a residual network, layer by layer (Chen et al. 2017, arXiv:1706.05587; He et al. 2015,
arXiv:1512.03385, table 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scalebench.theory.layers import Layer

EXPANSION = 4
"""How much wider a bottleneck ends than it is inside."""
STEM_STRIDE = 4
"""Of the first convolution and the pooling after it, together."""
BRANCHES = 5
"""Of the pyramid: one pixel, three atrous rates, the whole image."""


def resnet_layers(stage_blocks: Sequence[int], width: int, image_size: int, output_stride: int) -> Iterator[Layer]:
    """The layers of a ResNet without its classifier, whose stages stop halving the picture at `output_stride`.

    A 7x7 convolution, then stages of bottlenecks (1x1, 3x3, 1x1) of `width`, twice, four and eight times that inside.
    The first bottleneck of a stage has a 1x1 shortcut and, where the stage halves, strides in its 3x3 convolution.
    """
    yield _convolution(3, width, 7, image_size // 2, reads_data=True)
    channels, side, stride = width, image_size // STEM_STRIDE, STEM_STRIDE
    for stage, blocks in enumerate(stage_blocks):
        inside = width << stage
        for block in range(blocks):
            before = side
            if stage and not block and stride < output_stride:
                side, stride = side // 2, stride * 2
            yield _convolution(channels, inside, 1, before, recomputed=True)
            yield _convolution(inside, inside, 3, side, recomputed=True)
            yield _convolution(inside, EXPANSION * inside, 1, side, recomputed=True)
            if not block:
                yield _convolution(channels, EXPANSION * inside, 1, side, recomputed=True)
            channels = EXPANSION * inside


def pyramid_layers(channels: int, inside: int, num_classes: int, side: int) -> Iterator[Layer]:
    """The head: atrous pyramid of `inside` channels per branch, its projection, a 3x3 convolution, the classifier."""
    yield _convolution(channels, inside, 1, side)
    for _ in range(BRANCHES - 2):
        yield _convolution(channels, inside, 3, side)
    yield _convolution(channels, inside, 1, 1)
    yield _convolution(BRANCHES * inside, inside, 1, side)
    yield _convolution(inside, inside, 3, side)
    yield Layer(weights=inside * num_classes, vectors=num_classes, positions=side**2)


def _convolution(
    inputs: int, outputs: int, kernel: int, side: int, *, reads_data: bool = False, recomputed: bool = False
) -> Layer:
    """A convolution without bias, and the norm after it, whose output has `side` x `side` pixels."""
    return Layer(
        weights=inputs * outputs * kernel**2,
        vectors=2 * outputs,
        positions=side**2,
        reads_data=reads_data,
        recomputed=recomputed,
    )
