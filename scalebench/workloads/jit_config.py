"""The options and sizes of the `jit` workload. Torch-free, so that the command can list and check them quickly."""

from __future__ import annotations

from dataclasses import dataclass

from scalebench.errors import UserError
from scalebench.workloads.config import TransformerConfig

TIME_FEATURES = 256
"""Sines and cosines that a time is embedded from."""


@dataclass(frozen=True, kw_only=True)
class JiTConfig(TransformerConfig):
    """The shape of a transformer over pixels; the fields are the options of `--set workload.NAME=VALUE`.

    Attributes:
        num_layers: transformer blocks.
        hidden_size: width of the residual stream; the SwiGLU's matrices are 8/3 as wide.
        num_heads: attention heads, each of hidden_size / num_heads.
        patch_size: side of the square of pixels that makes one token.
        bottleneck_size: width that a patch is pressed through on its way to the residual stream.
        image_size, channels: shape of an image.
        num_classes: labels; one more row of their embedding stands for "none".
        num_class_tokens: tokens made of the label that join those of the image.
        class_tokens_from: index of the first block that sees them.
        label_dropout: share of the samples that are shown without their label, for classifier-free guidance.
        time_mean, time_std: times are the logistic function of normal values of this mean and deviation.
        noise_scale: standard deviation of the noise, whose images have values from -1 to 1.
        sampling_steps: Heun steps per generated sample, each of two model evaluations; with guidance four.
        guidance_scale: how far from the prediction without label through that with it; 1: no guidance.

    Raises UserError for a shape that cannot be built.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    patch_size: int
    image_size: int
    bottleneck_size: int = 128
    channels: int = 3
    num_classes: int = 1000
    num_class_tokens: int = 32
    class_tokens_from: int = 4
    label_dropout: float = 0.1
    time_mean: float = -0.8
    time_std: float = 0.8
    noise_scale: float = 1.0
    sampling_steps: int = 50
    guidance_scale: float = 2.9

    def __post_init__(self) -> None:
        self.require_whole("num_layers", "hidden_size", "num_heads", "patch_size", "image_size", "bottleneck_size")
        self.require_whole("channels", "num_classes", "sampling_steps")
        self.require_whole("num_class_tokens", "class_tokens_from", least=0)
        self.require_probability("label_dropout")
        for name in ("time_std", "noise_scale"):
            if getattr(self, name) <= 0:
                raise UserError(f"workload.{name} is {getattr(self, name)}; give a number above 0.")
        if self.hidden_size % (4 * self.num_heads):
            raise UserError(
                f"workload.hidden_size {self.hidden_size} does not divide into {self.num_heads} heads whose width is a "
                "multiple of 4, as rotations by row and column need; choose workload.num_heads accordingly."
            )
        if self.image_size % self.patch_size:
            raise UserError(
                f"workload.image_size {self.image_size} does not divide into patches of {self.patch_size}; "
                "choose workload.patch_size so that image_size / patch_size is whole."
            )

        if self.num_class_tokens and self.class_tokens_from >= self.num_layers:
            raise UserError(
                f"workload.class_tokens_from is {self.class_tokens_from}, and the last of {self.num_layers} blocks is "
                f"{self.num_layers - 1}; set it to that at most, or workload.num_class_tokens to 0."
            )

    @property
    def num_patches(self) -> int:
        """Tokens of one image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def patch_values(self) -> int:
        """Values in a patch of pixels."""
        return self.patch_size**2 * self.channels

    @property
    def mlp_hidden_size(self) -> int:
        """Width inside the SwiGLU: two thirds of the usual four times, since it has three matrices instead of two."""
        return 4 * self.hidden_size * 2 // 3

    @property
    def tokens_per_block(self) -> tuple[int, ...]:
        """Tokens that each block sees: those of the image, and from `class_tokens_from` on those of the class."""
        return tuple(
            self.num_patches + (self.num_class_tokens if index >= self.class_tokens_from else 0)
            for index in range(self.num_layers)
        )

    @property
    def parameter_count(self) -> int:
        """Trained parameters: fixed positions are not among them.

        A block has 10 d² weights (attention 4, modulation 6) and 3 d h of the SwiGLU, 10 d + 2 h + d biases, two norms
        of d and two of a head's width.
        """
        d, h = self.hidden_size, self.mlp_hidden_size
        block = 10 * d * d + 3 * d * h + 10 * d + 2 * h + d + 2 * d + 2 * (d // self.num_heads)
        patches = self.patch_values * self.bottleneck_size + (self.bottleneck_size + 1) * d
        time = (TIME_FEATURES + 1) * d + (d + 1) * d
        looked_up = (self.num_classes + 1 + self.num_class_tokens) * d
        head = d + 2 * d * (d + 1) + (d + 1) * self.patch_values
        return self.num_layers * block + patches + time + looked_up + head


BASE = {"num_layers": 12, "hidden_size": 768, "num_heads": 12}
LARGE = {"num_layers": 24, "hidden_size": 1024, "num_heads": 16}
HUGE = {"num_layers": 32, "hidden_size": 1280, "num_heads": 16}

SIZES: dict[str, JiTConfig] = {
    "tiny": JiTConfig(
        num_layers=3,
        hidden_size=64,
        num_heads=2,
        patch_size=4,
        image_size=16,
        bottleneck_size=16,
        num_classes=10,
        num_class_tokens=4,
        class_tokens_from=1,
        sampling_steps=5,
    ),
    "b/4": JiTConfig(**BASE, patch_size=4, image_size=64),
    "b/8": JiTConfig(**BASE, patch_size=8, image_size=128),
    "b/16": JiTConfig(**BASE, patch_size=16, image_size=256),
    "l/16": JiTConfig(**LARGE, patch_size=16, image_size=256, class_tokens_from=8, guidance_scale=2.4),
    "h/16": JiTConfig(
        **HUGE, patch_size=16, image_size=256, bottleneck_size=256, class_tokens_from=10, guidance_scale=2.2
    ),
}
"""Li & He 2025 (arXiv:2511.13720): B, L and H at patch 16 and 256 pixels; b/4 and b/8 are B's shape at 64 and 128, so
that each makes 256 tokens."""

DEFAULT_MICRO_BATCH: dict[str, int] = {"tiny": 4, "b/4": 32, "b/8": 32, "b/16": 32, "l/16": 32, "h/16": 16}
"""Samples per rank and forward pass unless asked otherwise: 8 Ki tokens, fewer where memory gets short."""
