"""The options and sizes of the `vavae` workload. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from scalebench.errors import UserError
from scalebench.theory.autoencoder import AutoencoderShape
from scalebench.theory.layers import Layer
from scalebench.workloads.config import LayeredConfig


@dataclass(frozen=True, kw_only=True)
class VAVAEConfig(LayeredConfig):
    """The shape of a convolutional KL autoencoder; the fields are the options of `--set workload.NAME=VALUE`.

    Attributes:
        image_size: pixels along a side, divisible by 2 for each level but the first.
        channels: 3 for coloured images, 1 for grey ones.
        latent_channels: channels of the latents.
        width: channels that the multipliers multiply.
        multipliers: of the levels, from the image to the latents; each level but the last halves the picture.
        num_res_blocks: residual blocks per level of the encoder; the decoder has one more.
        level_attention: attention after each residual block of the last level; the middle always has one.
        norm_groups: groups of the norms.
        pixel_error: what the loss makes of a pixel that is off: its absolute or its squared difference.
        kl_weight: weight of the divergence, as in Rombach et al.: beside an error summed over all pixels.
        condition_dim: length of a condition vector that every residual block sees; 0 for none.
        num_classes: classes of the data where there is a condition, which is the one-hot vector of its image's class.

    Raises UserError for a shape that cannot be built.
    """

    image_size: int = 256
    channels: int = 3
    latent_channels: int
    width: int = 128
    multipliers: str
    num_res_blocks: int = 2
    level_attention: bool = False
    norm_groups: int = 32
    pixel_error: Literal["absolute", "squared"] = "absolute"
    kl_weight: float = 1e-6
    condition_dim: int = 0
    num_classes: int = 1000

    def __post_init__(self) -> None:
        self.require_whole("image_size", "channels", "latent_channels", "width", "num_res_blocks", "norm_groups")
        self.require_whole("num_classes")
        self.require_whole("condition_dim", least=0)
        if self.kl_weight < 0:
            raise UserError(f"workload.kl_weight is {self.kl_weight}; give 0 or more.")
        if not re.fullmatch(r"[1-9][0-9]?(-[1-9][0-9]?)*", self.multipliers):
            raise UserError(f"workload.multipliers is '{self.multipliers}'; give whole numbers such as 1-2-4-4.")
        self._require_sizes_that_divide()
        if 0 < self.condition_dim < self.num_classes:
            raise UserError(
                f"workload.condition_dim {self.condition_dim} has no room for {self.num_classes} classes; "
                "give at least workload.num_classes, or 0 for no condition."
            )

    def _require_sizes_that_divide(self) -> None:
        factor = 2 ** (len(self.level_widths) - 1)
        if self.image_size % factor:
            raise UserError(
                f"workload.image_size {self.image_size} is no multiple of {factor}, by which "
                f"{len(self.level_widths)} levels shrink it; give {self.image_size // factor * factor or factor}, say."
            )
        if self.width % self.norm_groups:
            raise UserError(
                f"workload.width {self.width} does not divide into {self.norm_groups} groups; "
                "choose workload.norm_groups so that it does."
            )

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels of each level, from the image to the latents."""
        return tuple(self.width * int(multiplier) for multiplier in self.multipliers.split("-"))

    @property
    def shape(self) -> AutoencoderShape:
        """What decides on its layers."""
        return AutoencoderShape(
            image_size=self.image_size,
            channels=self.channels,
            latent_channels=self.latent_channels,
            width=self.width,
            level_widths=self.level_widths,
            num_res_blocks=self.num_res_blocks,
            level_attention=self.level_attention,
            condition_dim=self.condition_dim,
        )

    @property
    def layers(self) -> list[Layer]:
        """What it is made of (scalebench.theory.autoencoder)."""
        return self.shape.layers

    @property
    def latent_size(self) -> int:
        """Pixels along a side of the latents."""
        return self.shape.latent_size


SIZES: dict[str, VAVAEConfig] = {
    "tiny": VAVAEConfig(
        image_size=16,
        latent_channels=4,
        width=16,
        multipliers="1-2",
        num_res_blocks=1,
        norm_groups=8,
        num_classes=10,
    ),
    "f8d4": VAVAEConfig(latent_channels=4, multipliers="1-2-4-4"),
    "f16d16": VAVAEConfig(latent_channels=16, multipliers="1-1-2-2-4", level_attention=True),
    "f16d32": VAVAEConfig(latent_channels=32, multipliers="1-1-2-2-4", level_attention=True),
}
"""fFdD: images shrunk F times along a side, D channels. f8d4 is the autoencoder of Stable Diffusion 1 and 2, f16d16 the
kl-f16 of Rombach et al. 2021 (arXiv:2112.10752), f16d32 that of VA-VAE (Yao et al. 2025, arXiv:2501.01423)."""

DEFAULT_MICRO_BATCH: dict[str, int] = {"tiny": 4, "f8d4": 4, "f16d16": 4, "f16d32": 4}
