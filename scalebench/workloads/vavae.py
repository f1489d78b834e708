"""The `vavae` workload: the convolutional KL autoencoder that latent diffusion works in, with its loss.

Rombach et al. 2021 (arXiv:2112.10752), also of VA-VAE (Yao et al. 2025, arXiv:2501.01423): mean absolute error of the
reconstruction plus a lightly weighted divergence. Their adversarial, perceptual and alignment losses are left out: they
need second optimizers and pretrained networks. Modules bear the names of the published checkpoints' layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scalebench.data.base import SampleSource
from scalebench.data.draws import Draws, normals
from scalebench.data.images import open_images
from scalebench.data.samples import Derived
from scalebench.strategies.base import Batch, Task
from scalebench.workloads.frame import Layered
from scalebench.workloads.values import from_bytes, to_bytes
from scalebench.workloads.vavae_config import DEFAULT_MICRO_BATCH, VAVAEConfig

EPS = 1e-6
"""Of all norms, as in the published networks."""
LOG_VARIANCE = (-30.0, 20.0)
"""Where the posterior's log-variance is cut."""
GAIN = 1 / 3
"""Variance of start weights times fan-in, as torch ships convolutions."""
LEAST_ERROR = 1e-10
"""A mean squared error counts as at least this: a PSNR of 100 dB."""


class ResidualBlock(nn.Module):
    """Two norms with SiLU and a 3x3 convolution, and a shortcut: (batch, inputs, h, w) to (batch, outputs, h, w).

    A condition (batch, condition_dim) is projected and added between the two. The shortcut runs first, so that the last
    convolution is what recomputing stops before.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, condition_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.temb_proj = nn.Linear(condition_dim, outputs) if condition_dim else None
        self.norm2 = nn.GroupNorm(groups, outputs, EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, values: Tensor, condition: Tensor | None) -> Tensor:
        shortcut: Tensor = self.nin_shortcut(values)
        hidden = self.conv1(F.silu(self.norm1(values)))
        if self.temb_proj is not None:
            assert condition is not None, "a model with condition_dim is given a condition"
            hidden = hidden + self.temb_proj(condition.to(self.temb_proj.weight.dtype))[:, :, None, None]
        return shortcut + self.conv2(F.silu(self.norm2(hidden)))  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """Norm and attention of one head over all pixels, added to its input: (batch, channels, h, w) to the same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, values: Tensor) -> Tensor:
        normed = self.norm(values)
        query, key, value = (_channels_last(part(normed)) for part in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.squeeze(1).transpose(1, 2).reshape(values.shape)
        return values + self.proj_out(attended)  # type: ignore[no-any-return]


def _channels_last(values: Tensor) -> Tensor:
    """(batch, channels, h, w) to (batch, 1, h w, channels), laid out as it says: fused kernels take nothing else."""
    return values.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 that sees one more row below and one more column to the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2)

    def forward(self, values: Tensor) -> Tensor:
        return self.conv(F.pad(values, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Every pixel four times, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        return self.conv(F.interpolate(values, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class Level(nn.Module):
    """Residual blocks of one resolution, each with attention after it if asked, then the way to the next resolution."""

    def __init__(self, config: VAVAEConfig, inputs: int, outputs: int, blocks: int, *, attention: bool) -> None:
        super().__init__()
        groups = config.norm_groups
        widths = [inputs, *[outputs] * (blocks - 1)]
        self.block = nn.ModuleList(ResidualBlock(width, outputs, groups, config.condition_dim) for width in widths)
        self.attn = nn.ModuleList(AttentionBlock(outputs, groups) for _ in range(blocks if attention else 0))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, hidden: Tensor, condition: Tensor | None) -> Tensor:
        for index, block in enumerate(self.block):
            hidden = block(hidden, condition)
            if len(self.attn):
                hidden = self.attn[index](hidden)
        return self.upsample(self.downsample(hidden))  # type: ignore[no-any-return]


class Middle(nn.Module):
    """A residual block, attention, a residual block."""

    def __init__(self, config: VAVAEConfig, width: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(width, width, config.norm_groups, config.condition_dim)
        self.attn_1 = AttentionBlock(width, config.norm_groups)
        self.block_2 = ResidualBlock(width, width, config.norm_groups, config.condition_dim)

    def forward(self, hidden: Tensor, condition: Tensor | None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(hidden, condition)), condition)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """(batch, channels, side, side) to (batch, 2 latent_channels, s, s), s the latents' side."""

    def __init__(self, config: VAVAEConfig) -> None:
        super().__init__()
        widths = config.level_widths
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.channels, config.width, 3, padding=1)
        self.down = nn.ModuleList()
        for index, (inputs, outputs) in enumerate(zip((config.width, *widths), widths, strict=False)):
            attention = config.level_attention and index == last
            level = Level(config, inputs, outputs, config.num_res_blocks, attention=attention)
            level.downsample = Downsample(outputs) if index < last else nn.Identity()
            self.down.append(level)
        self.mid = Middle(config, widths[-1])
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor, condition: Tensor | None) -> Tensor:
        hidden = self.conv_in(images.to(self.conv_in.weight.dtype))
        for level in self.down:
            hidden = level(hidden, condition)
        hidden = self.mid(hidden, condition)
        return self.conv_out(F.silu(self.norm_out(hidden)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """(batch, latent_channels, s, s) to (batch, channels, side, side). `up` counts levels as the encoder's `down`."""

    def __init__(self, config: VAVAEConfig) -> None:
        super().__init__()
        widths = config.level_widths
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(config, widths[-1])
        self.up = nn.ModuleList()
        for index, (outputs, inputs) in enumerate(zip(widths, (*widths[1:], widths[-1]), strict=True)):
            attention = config.level_attention and index == last
            level = Level(config, inputs, outputs, config.num_res_blocks + 1, attention=attention)
            level.upsample = Upsample(outputs) if index else nn.Identity()
            self.up.append(level)
        self.norm_out = nn.GroupNorm(config.norm_groups, widths[0], EPS)
        self.conv_out = nn.Conv2d(widths[0], config.channels, 3, padding=1)

    def forward(self, latents: Tensor, condition: Tensor | None) -> Tensor:
        hidden = self.mid(self.conv_in(latents), condition)
        for level in reversed(list(self.up)):
            hidden = level(hidden, condition)
        return self.conv_out(F.silu(self.norm_out(hidden)))  # type: ignore[no-any-return]


class VAVAE(nn.Module):
    """The autoencoder and its loss.

    A batch is uint8 `images` (batch, channels, side, side), the int64 `noise_keys` (batch,) that the noise of the
    latents follows from and, if the model has a condition, `condition` (batch, condition_dim).
    """

    def __init__(self, config: VAVAEConfig) -> None:
        super().__init__()
        self.kl_weight, self.pixel_error = config.kl_weight, config.pixel_error
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def forward(self, batch: Batch, task: Task = "loss") -> Tensor | dict[str, Tensor]:
        """`loss`: error and weighted divergence of latents drawn with the noise; `metrics`: sums over images, of the
        posterior's mean; `generate`: uint8 images, decoded from `latents` where a batch has them, else from the means.
        """
        condition = batch.get("condition")
        if task == "generate" and "latents" in batch:
            return to_bytes(self.decode(batch["latents"], condition))
        images = from_bytes(batch["images"])
        mean, log_variance = self.encode(images, condition)
        if task == "loss":
            noise = normals(batch["noise_keys"], *mean.shape[1:])
            latents = mean + (0.5 * log_variance).exp() * noise
            return self._losses(images, self.decode(latents, condition), mean, log_variance)["loss_sum"] / len(images)
        decoded = self.decode(mean, condition)
        if task == "generate":
            return to_bytes(decoded)
        sums = self._losses(images, decoded, mean, log_variance)
        return {**sums, "psnr_sum": psnr(images, decoded).sum(), "samples": mean.new_tensor(len(images))}

    def encode(self, images: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior over latents, fp32; `images` from -1 to 1."""
        moments = self.quant_conv(self.encoder(images, condition)).float()
        mean, log_variance = moments.chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def decode(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images, fp32, about -1 to 1."""
        decoded = self.decoder(self.post_quant_conv(latents.to(self.post_quant_conv.weight.dtype)), condition)
        return decoded.float()  # type: ignore[no-any-return]

    def _losses(self, images: Tensor, decoded: Tensor, mean: Tensor, log_variance: Tensor) -> dict[str, Tensor]:
        """Sums over images: mean error of a pixel, divergence from the standard normal in nats, and the loss.

        The loss is Rombach et al.'s over the number of pixel values: they weigh the divergence beside a summed error.
        """
        values = images[0].numel()
        off = decoded - images
        absolute = off.abs().sum() / values
        error = absolute if self.pixel_error == "absolute" else off.square().sum() / values
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum()
        return {
            "loss_sum": error + self.kl_weight * divergence / values,
            "l1_sum": absolute,
            "kl_sum": divergence,
        }


def psnr(images: Tensor, decoded: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB, for pixels from -1 to 1: (batch,)."""
    errors = (images - decoded.clamp(-1.0, 1.0)).square().flatten(1).mean(1)
    return 10.0 * torch.log10(4.0 / errors.clamp(min=LEAST_ERROR))


@dataclass(frozen=True, kw_only=True)
class NoisyImages(Derived):
    """Images with the keys of the noise for their latents, and with the condition that stands for their class."""

    noise: Draws
    condition_dim: int

    def __getitems__(self, draws: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """`images`, int64 `noise_keys` (len(draws),) and, if there is one, `condition`."""
        drawn = self.source.__getitems__(draws)
        batch = {"images": drawn["images"], "noise_keys": self.noise.keys(draws)}
        if self.condition_dim:
            batch["condition"] = F.one_hot(drawn["labels"], self.condition_dim).float()
        return batch


class VAVAEWorkload(Layered[VAVAEConfig]):
    """An autoencoder at one size with its options: a scalebench.workloads.base.Workload."""

    name = "vavae"
    default_micro_batches = DEFAULT_MICRO_BATCH
    start_gain = GAIN

    def build(self) -> VAVAE:
        """The module, with values left to `init_parameter_`."""
        return VAVAE(self.config)

    def block_names(self, module: nn.Module) -> list[str]:
        """Residual and attention blocks of encoder and decoder."""
        return [n for n, child in module.named_modules() if isinstance(child, ResidualBlock | AttentionBlock)]

    def compiled_names(self, module: nn.Module) -> list[str]:
        """The blocks, and the convolutions outside of them."""
        resamples = [n for n, child in module.named_modules() if isinstance(child, Downsample | Upsample)]
        ends = [f"{coder}.{conv}" for coder in ("encoder", "decoder") for conv in ("conv_in", "conv_out")]
        return [*self.block_names(module), *resamples, *ends, "quant_conv", "post_quant_conv"]

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over images, reconstructed from the posterior's mean: `loss`, `l1` (of pixels from -1 to 1), `kl` in
        nats, `psnr` in dB."""
        samples = sums["samples"].double()
        return {name: (sums[f"{name}_sum"].double() / samples).item() for name in ("loss", "l1", "kl", "psnr")}

    def samples(self, data: str, seed: int) -> SampleSource:
        """Images with their noise and condition; `data` is a spec's (scalebench.data)."""
        config = self.config
        images = open_images(
            data,
            seed=seed,
            image_size=config.image_size,
            channels=config.channels,
            num_classes=config.num_classes if config.condition_dim else None,
        )
        return NoisyImages(
            source=images,
            noise=Draws(seed=seed, purpose="latent noise"),
            condition_dim=config.condition_dim,
        )
