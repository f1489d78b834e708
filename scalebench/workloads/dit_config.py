"""The options and sizes of the `dit` workload. Torch-free, so that the command can list and check them quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scalebench.errors import UserError
from scalebench.workloads.config import TransformerConfig

TIME_FEATURES = 256
"""Sines and cosines that a timestep is embedded from."""


@dataclass(frozen=True, kw_only=True)
class DiTConfig(TransformerConfig):
    """The shape of a diffusion transformer; the fields are the options of `--set workload.NAME=VALUE`.

    Attributes:
        num_layers: transformer blocks.
        hidden_size: width of the residual stream; the MLP is four times as wide.
        num_heads: attention heads, each of hidden_size / num_heads.
        patch_size: side of the square of latent pixels that makes one token.
        latent_size, latent_channels: shape of a latent image, as the autoencoder gives it.
        num_classes: labels; one more row of their embedding stands for "none".
        label_dropout: share of the samples that are shown without their label, for classifier-free guidance.
        num_register_tokens: learned tokens beside those of the image, dropped from the output.
        learn_sigma: whether the variance of each denoising step is predicted too.
        sampling_steps: model evaluations per generated sample, with guidance twice as many.
        guidance_scale: how far from the prediction without label through that with it; 1: no guidance.

    Raises UserError for a shape that cannot be built.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    patch_size: int
    latent_size: int = 32
    latent_channels: int = 4
    num_classes: int = 1000
    label_dropout: float = 0.1
    num_register_tokens: int = 0
    learn_sigma: bool = True
    sampling_steps: int = 50
    guidance_scale: float = 4.0

    def __post_init__(self) -> None:
        self.require_whole("num_layers", "hidden_size", "num_heads", "patch_size", "latent_size", "latent_channels")
        self.require_whole("num_classes", "sampling_steps")
        self.require_whole("num_register_tokens", least=0)
        self.require_probability("label_dropout")
        if self.sampling_steps > TIMESTEPS:
            raise UserError(f"workload.sampling_steps is {self.sampling_steps}; give at most {TIMESTEPS}.")
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise UserError(
                f"workload.hidden_size {self.hidden_size} has to be a multiple of 4 (positions are sines and cosines "
                f"of row and column) and of workload.num_heads, {self.num_heads}."
            )
        if self.latent_size % self.patch_size:
            raise UserError(
                f"workload.latent_size {self.latent_size} does not divide into patches of {self.patch_size}; "
                "choose workload.patch_size so that latent_size / patch_size is whole."
            )

    @property
    def num_patches(self) -> int:
        """Tokens of one image."""
        return (self.latent_size // self.patch_size) ** 2

    @property
    def num_tokens(self) -> int:
        """Tokens that attend to each other: patches and registers."""
        return self.num_patches + self.num_register_tokens

    @property
    def patch_values(self) -> int:
        """Values in a patch of latents."""
        return self.patch_size**2 * self.latent_channels

    @property
    def output_values(self) -> int:
        """Values predicted for a patch: the noise and, where it is learned, the variance."""
        return self.patch_values * (2 if self.learn_sigma else 1)

    @property
    def parameter_count(self) -> int:
        """Trained parameters: the sines and cosines of positions, which the published count includes, are not.

        A block has 18 d² weights (attention 4, MLP 8, modulation 6) and 15 d biases (4, 5 and 6).
        """
        d = self.hidden_size
        block = 18 * d * d + 15 * d
        patches, output = (self.patch_values + 1) * d, (d + 1) * self.output_values
        time = (TIME_FEATURES + 1) * d + (d + 1) * d
        looked_up = (self.num_classes + 1 + self.num_register_tokens) * d
        return self.num_layers * block + patches + time + looked_up + 2 * d * (d + 1) + output


TIMESTEPS = 1000
"""Steps of the noise schedule."""

SHAPES: dict[str, dict[str, Any]] = {
    "s": {"num_layers": 12, "hidden_size": 384, "num_heads": 6},
    "b": {"num_layers": 12, "hidden_size": 768, "num_heads": 12},
    "l": {"num_layers": 24, "hidden_size": 1024, "num_heads": 16},
    "xl": {"num_layers": 28, "hidden_size": 1152, "num_heads": 16},
}
"""Peebles & Xie 2023 (arXiv:2212.09748), table 1."""

SIZES: dict[str, DiTConfig] = {
    "tiny": DiTConfig(
        num_layers=2, hidden_size=64, num_heads=2, patch_size=2, latent_size=8, num_classes=10, sampling_steps=10
    ),
    **{
        f"{name}/{patch}": DiTConfig(**shape, patch_size=patch) for name, shape in SHAPES.items() for patch in (8, 4, 2)
    },
}
"""Published sizes at 256 pixels, of which the autoencoder makes latents of 32 x 32 x 4; patch 8, 4 and 2 make 16, 64
and 256 tokens."""

DEFAULT_MICRO_BATCH: dict[str, int] = {
    "tiny": 4,
    **{f"{name}/{patch}": {8: 128, 4: 64, 2: 32}[patch] for name in ("s", "b", "l") for patch in (8, 4, 2)},
    "xl/8": 64,
    "xl/4": 32,
    "xl/2": 16,
}
"""Samples per rank and forward pass unless asked otherwise: 8 Ki tokens at patch 2, fewer where images are small."""
