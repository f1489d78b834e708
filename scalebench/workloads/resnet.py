"""Residual networks of bottlenecks (He et al. 2015, arXiv:1512.03385), whose last stages may be dilated.

A stage's stride is in the 3x3 convolution of its first bottleneck. Modules bear the names that torchvision gives them,
so that published checkpoints of its layout can be started from; `bn` is whatever norm was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scalebench.theory.deeplab import EXPANSION, STEM_STRIDE


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What stands between convolutions: a norm of so many channels, and an activation."""

    norm: Callable[[int], nn.Module]
    activation: type[nn.Module]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut: (batch, inputs, h, w) to (batch, 4 inside, h, w) over the stride."""

    def __init__(self, inputs: int, inside: int, parts: Parts, *, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        outputs = EXPANSION * inside
        self.conv1 = nn.Conv2d(inputs, inside, 1, bias=False)
        self.bn1 = parts.norm(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = parts.norm(inside)
        self.conv3 = nn.Conv2d(inside, outputs, 1, bias=False)
        self.bn3 = parts.norm(outputs)
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), parts.norm(outputs))
        self.downsample = shortcut if project else nn.Identity()
        self.activate = parts.activation()

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.activate(self.bn1(self.conv1(values)))
        hidden = self.activate(self.bn2(self.conv2(hidden)))
        return self.activate(self.bn3(self.conv3(hidden)) + self.downsample(values))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """The network without its classifier: (batch, 3, side, side) to (batch, 32 width, side / s, side / s).

    A stage that would shrink the picture more than `output_stride` (s) dilates its convolutions instead, from its
    second bottleneck on, so that what they see stays as large.
    """

    def __init__(self, stage_blocks: Sequence[int], width: int, output_stride: int, parts: Parts) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = parts.norm(width)
        self.activate = parts.activation()
        inputs, stride, dilation = width, STEM_STRIDE, 1
        for stage, blocks in enumerate(stage_blocks):
            shrinks = stage > 0 and stride < output_stride
            rates = (dilation, dilation * 2 if stage and not shrinks else dilation)
            inside = width << stage
            self.add_module(f"layer{stage + 1}", _stage(inputs, inside, blocks, 2 if shrinks else 1, rates, parts))
            inputs, stride, dilation = EXPANSION * inside, stride * (2 if shrinks else 1), rates[1]

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.activate(self.bn1(self.conv1(images.to(self.conv1.weight.dtype))))
        hidden = F.max_pool2d(hidden, 3, 2, padding=1)
        for stage in range(1, 5):
            hidden = self.get_submodule(f"layer{stage}")(hidden)
        return hidden  # type: ignore[no-any-return]


def _stage(
    inputs: int, inside: int, blocks: int, stride: int, dilations: tuple[int, int], parts: Parts
) -> nn.Sequential:
    """Bottlenecks, of which the first alone strides and projects; the first has the first dilation, the others the
    second."""
    first = Bottleneck(inputs, inside, parts, stride=stride, dilation=dilations[0], project=True)
    others = [
        Bottleneck(EXPANSION * inside, inside, parts, stride=1, dilation=dilations[1], project=False)
        for _ in range(blocks - 1)
    ]
    return nn.Sequential(first, *others)
