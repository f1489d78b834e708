"""The options and sizes of the `segmentation` workload. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalebench.errors import UserError
from scalebench.theory.deeplab import EXPANSION, pyramid_layers, resnet_layers
from scalebench.theory.layers import Layer
from scalebench.workloads.config import LayeredConfig

Norm = Literal["group", "batch", "sync_batch"]
Activation = Literal["relu", "silu"]

REACH = 96
"""The smallest atrous rate, in pixels of the image: 6 at an output stride of 16, 12 at 8."""


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(LayeredConfig):
    """The shape of a DeepLabV3 on a ResNet; the fields are the options of `--set workload.NAME=VALUE`.

    Attributes:
        stage1_blocks, stage2_blocks, stage3_blocks, stage4_blocks: bottlenecks of the residual network's stages.
        width: channels inside the first stage's bottlenecks; they double from stage to stage.
        aspp_channels: channels of each branch of the atrous pyramid and of what follows it.
        output_stride: how much smaller than the image the last features are: 8, 16 or 32; stages that would halve
            them further are dilated instead.
        atrous_rate: the pyramid's smallest rate; the others are twice and three times that. None: 96 / output_stride.
        image_size: pixels along a side, a multiple of the output stride.
        num_classes: classes, background included; pixels of class 255 are ignored.
        norm: `group` (the same whatever the ranks and the micro-batch), `batch` (over each rank's micro-batch) or
            `sync_batch` (over the micro-batches of all ranks).
        norm_groups: groups of `group`.
        activation: `relu`, as published, or `silu`, which has no kink.
        dropout: probability, of whole channels of the pyramid's output.

    Raises UserError for a shape that cannot be built.
    """

    stage1_blocks: int = 3
    stage2_blocks: int = 4
    stage3_blocks: int = 6
    stage4_blocks: int = 3
    width: int = 64
    aspp_channels: int = 256
    output_stride: int = 16
    atrous_rate: int | None = None
    image_size: int = 512
    num_classes: int = 21
    norm: Norm = "group"
    norm_groups: int = 32
    activation: Activation = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self.require_whole(
            *(f"stage{stage}_blocks" for stage in range(1, 5)),
            *("width", "aspp_channels", "output_stride", "image_size", "num_classes", "norm_groups"),
        )
        self.require_probability("dropout")
        if self.atrous_rate is not None:
            self.require_whole("atrous_rate")
        self._require_sizes_that_divide()
        if self.num_classes > 255:
            raise UserError(f"workload.num_classes is {self.num_classes}; masks hold at most 255 classes, 0 to 254.")

    def _require_sizes_that_divide(self) -> None:
        if self.output_stride not in (8, 16, 32):
            raise UserError(f"workload.output_stride is {self.output_stride}; give 8, 16 or 32.")
        if self.image_size % self.output_stride:
            raise UserError(
                f"workload.image_size {self.image_size} is no multiple of the output stride {self.output_stride}; "
                f"give {self.image_size // self.output_stride * self.output_stride or self.output_stride}, say."
            )
        for name in ("width", "aspp_channels"):
            if self.norm == "group" and getattr(self, name) % self.norm_groups:
                raise UserError(
                    f"workload.{name} {getattr(self, name)} does not divide into {self.norm_groups} groups; "
                    "choose workload.norm_groups so that it does."
                )

    @property
    def stage_blocks(self) -> tuple[int, int, int, int]:
        """Bottlenecks of each stage."""
        return self.stage1_blocks, self.stage2_blocks, self.stage3_blocks, self.stage4_blocks

    @property
    def features(self) -> int:
        """Channels of the last features."""
        return EXPANSION * self.width * 8

    @property
    def atrous_rates(self) -> tuple[int, int, int]:
        """Of the pyramid's three dilated convolutions."""
        least = max(1, REACH // self.output_stride) if self.atrous_rate is None else self.atrous_rate
        return least, 2 * least, 3 * least

    @property
    def layers(self) -> list[Layer]:
        """What it is made of (scalebench.theory.deeplab)."""
        side = self.image_size // self.output_stride
        backbone = resnet_layers(self.stage_blocks, self.width, self.image_size, self.output_stride)
        return [*backbone, *pyramid_layers(self.features, self.aspp_channels, self.num_classes, side)]


SIZES: dict[str, SegmentationConfig] = {
    "tiny": SegmentationConfig(
        stage1_blocks=1,
        stage2_blocks=1,
        stage3_blocks=1,
        stage4_blocks=1,
        width=8,
        aspp_channels=32,
        output_stride=8,
        atrous_rate=2,
        image_size=64,
        num_classes=5,
        norm_groups=4,
    ),
    "resnet50": SegmentationConfig(),
    "resnet101": SegmentationConfig(stage3_blocks=23),
}
"""He et al. 2015 (arXiv:1512.03385), table 1, and Chen et al. 2017 (arXiv:1706.05587), section 4: 21 classes are those
of PASCAL VOC, rates 6, 12, 18 at an output stride of 16."""

DEFAULT_MICRO_BATCH: dict[str, int] = {"tiny": 4, "resnet50": 8, "resnet101": 8}
