"""The `segmentation` workload: DeepLabV3 on a ResNet (Chen et al. 2017, arXiv:1706.05587) with its loss.

An atrous pyramid of five branches looks at the backbone's last features at several distances; a 3x3 convolution and the
classifier follow, and the scores are brought to the image's size. Modules bear torchvision's names (see resnet.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scalebench.data.base import SampleSource
from scalebench.data.pairs import open_pairs
from scalebench.strategies.base import Batch, Task
from scalebench.workloads.frame import Layered
from scalebench.workloads.norms import norm
from scalebench.workloads.resnet import Parts, ResNet
from scalebench.workloads.segmentation_config import DEFAULT_MICRO_BATCH, SegmentationConfig
from scalebench.workloads.values import ACTIVATIONS, from_bytes

IGNORED = 255
"""The class of pixels that count for nothing."""


def convolved(inputs: int, outputs: int, parts: Parts, *, rate: int | None = None) -> nn.Sequential:
    """A convolution with norm and activation: 1x1, or 3x3 with an atrous `rate`."""
    size, padding = (1, 0) if rate is None else (3, rate)
    conv = nn.Conv2d(inputs, outputs, size, padding=padding, dilation=rate or 1, bias=False)
    return nn.Sequential(conv, parts.norm(outputs), parts.activation())


class WholeImage(nn.Sequential):
    """The branch that sees the whole image: its mean, convolved, at every pixel."""

    def __init__(self, inputs: int, outputs: int, parts: Parts) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *convolved(inputs, outputs, parts))

    def forward(self, values: Tensor) -> Tensor:
        pooled: Tensor = super().forward(values)  # type: ignore[no-untyped-call]
        return pooled.expand(-1, -1, *values.shape[2:])


class AtrousPyramid(nn.Module):
    """Branches side by side, then projected: (batch, inputs, h, w) to (batch, aspp_channels, h, w)."""

    def __init__(self, config: SegmentationConfig, parts: Parts) -> None:
        super().__init__()
        inputs, inside = config.features, config.aspp_channels
        branch = partial(convolved, inputs, inside, parts)
        self.convs = nn.ModuleList(
            [branch(), *(branch(rate=rate) for rate in config.atrous_rates), WholeImage(inputs, inside, parts)]
        )
        self.project = convolved(len(self.convs) * inside, inside, parts)
        self.dropout = nn.Dropout2d(config.dropout)

    def forward(self, values: Tensor) -> Tensor:
        projected = self.project(torch.cat([branch(values) for branch in self.convs], 1))
        return self.dropout(projected)  # type: ignore[no-any-return]


class DeepLabV3(nn.Module):
    """The model and its loss.

    A batch is uint8 `images` (batch, 3, side, side) and int64 `masks` (batch, side, side).
    """

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__()
        parts = Parts(
            norm=partial(norm, config.norm, groups=config.norm_groups), activation=ACTIVATIONS[config.activation]
        )
        inside = config.aspp_channels
        self.num_classes = config.num_classes
        self.backbone = ResNet(config.stage_blocks, config.width, config.output_stride, parts)
        self.classifier = nn.Sequential(
            AtrousPyramid(config, parts),
            *convolved(inside, inside, parts, rate=1),
            nn.Conv2d(inside, config.num_classes, 1),
        )

    def forward(self, batch: Batch, task: Task = "loss") -> Tensor | dict[str, Tensor]:
        """`loss`: mean cross-entropy in nats over the pixels that count; `metrics`: its sum, how many pixels count, and
        their `confusion`, (classes, classes), of which element (i, j) are pixels of class i taken for j; `generate`:
        the likeliest class of every pixel, (batch, side, side)."""
        images = batch["images"]
        scores = self.classifier(self.backbone(from_bytes(images)))
        scores = F.interpolate(scores.float(), images.shape[2:], mode="bilinear", align_corners=False)
        if task == "generate":
            return scores.argmax(1)
        masks = batch["masks"]
        loss_sum = F.cross_entropy(scores, masks, ignore_index=IGNORED, reduction="sum")
        counted = (masks != IGNORED).sum()
        if task == "loss":
            return loss_sum / counted.clamp(min=1)
        return {"loss_sum": loss_sum, "pixels": counted, "confusion": self._confusion(scores.argmax(1), masks)}

    def _confusion(self, predicted: Tensor, masks: Tensor) -> Tensor:
        counts = masks != IGNORED
        pairs = masks[counts] * self.num_classes + predicted[counts]
        return torch.bincount(pairs, minlength=self.num_classes**2).view(self.num_classes, self.num_classes)


class SegmentationWorkload(Layered[SegmentationConfig]):
    """A DeepLabV3 at one size with its options: a scalebench.workloads.base.Workload."""

    name = "segmentation"
    default_micro_batches = DEFAULT_MICRO_BATCH

    def build(self) -> DeepLabV3:
        """The module, with values left to `init_parameter_`."""
        return DeepLabV3(self.config)

    def block_names(self, module: nn.Module) -> list[str]:
        """The bottlenecks, in order."""
        return [
            f"backbone.layer{stage}.{block}"
            for stage, blocks in enumerate(self.config.stage_blocks, start=1)
            for block in range(blocks)
        ]

    def compiled_names(self, module: nn.Module) -> list[str]:
        """The bottlenecks and the head; the first convolution and the loss stay as they are."""
        return [*self.block_names(module), "classifier"]

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """`loss` in nats per pixel, `pixel_accuracy`, and `mean_iou`: the mean, over the classes that occur in a mask
        or a prediction, of intersection over union (Everingham et al. 2010, PASCAL VOC)."""
        confusion = sums["confusion"].double()
        right = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - right
        return {
            "loss": (sums["loss_sum"].double() / sums["pixels"].double()).item(),
            "pixel_accuracy": (right.sum() / confusion.sum()).item(),
            "mean_iou": (right / union)[union > 0].mean().item(),
        }

    def samples(self, data: str, seed: int) -> SampleSource:
        """Images with a class for every pixel; `data` is a spec's (scalebench.data)."""
        config = self.config
        return open_pairs(data, seed=seed, image_size=config.image_size, num_classes=config.num_classes)
