"""What the diffusion transformers share: patches, embeddings of times and positions, modulation, and what is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scalebench.data.draws import Draws
from scalebench.data.samples import Derived
from scalebench.workloads.frame import T, Transformer

LONGEST_PERIOD = 10_000
"""Of the sines and cosines of times and positions (Vaswani et al. 2017, arXiv:1706.03762, section 3.5)."""


def to_patches(images: Tensor, patch: int) -> Tensor:
    """(n, channels, height, width) to (n, tokens, patch · patch · channels), row by row."""
    cut = images.unfold(2, patch, patch).unfold(3, patch, patch)
    return cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def to_images(patches: Tensor, patch: int) -> Tensor:
    """What `to_patches` takes, from what it gives; images are square."""
    side = math.isqrt(patches.size(1))
    grid = torch.unflatten(torch.unflatten(patches, 1, (side, side)), 3, (patch, patch, -1))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def sinusoids(values: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of `values` (any shape) at `width` / 2 frequencies: fp32, (..., width)."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float().unsqueeze(-1) * LONGEST_PERIOD**-exponents
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_sinusoids(side: int, width: int, device: torch.device) -> Tensor:
    """Fixed positions of side · side patches: half of the width tells the column, half the row; (tokens, width)."""
    places = sinusoids(torch.arange(side, device=device), width // 2)
    columns, rows = places.repeat(side, 1), places.repeat_interleave(side, 0)
    return torch.cat([columns, rows], dim=-1)


class TimeEmbedding(nn.Module):
    """Times (n,) to (n, hidden): sines and cosines through an MLP."""

    def __init__(self, features: int, hidden_size: int) -> None:
        super().__init__()
        self.features = features
        self.expand = nn.Linear(features, hidden_size)
        self.mix = nn.Linear(hidden_size, hidden_size)

    def forward(self, times: Tensor) -> Tensor:
        features = sinusoids(times, self.features).to(self.expand.weight.dtype)
        return self.mix(F.silu(self.expand(features)))  # type: ignore[no-any-return]


class Modulation(nn.Module):
    """A condition (n, hidden) to `parts` of (n, 1, hidden): shifts, scales and gates (adaLN-Zero)."""

    def __init__(self, hidden_size: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(hidden_size, parts * hidden_size)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(condition)).unsqueeze(1).chunk(self.parts, dim=-1)  # type: ignore[no-any-return]


def modulate(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normed tokens, scaled by 1 + `scale` and moved by `shift`."""
    return normed * (1 + scale) + shift


def per_sample_mean(values: Tensor) -> Tensor:
    """The mean of each sample's values: (n, ...) to (n,)."""
    return values.flatten(1).mean(1)


def guided(
    predict: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, labels: Tensor, *, none: int, scale: float
) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): from the prediction without label through that
    with it, `scale` times as far. `predict` takes images and labels; `none` is the label of those without one."""
    if scale == 1:
        return predict(noisy, labels)
    both = torch.cat([labels, torch.full_like(labels, none)])
    labelled, unlabelled = predict(torch.cat([noisy, noisy]), both).chunk(2)
    return unlabelled + scale * (labelled - unlabelled)


@dataclass(frozen=True, kw_only=True)
class NoisySamples(Derived):
    """Labelled images (or latents) with what diffusion draws for each: a time, whether its label is dropped, and the
    key of its noise, which the model makes on its device: as large as the images, it would cost a loader much time.

    Attributes:
        source: of the images; its batches have `labels`.
        times: makes the times of draws: int64, since engines that cast what is not whole would round them.
    """

    label_dropout: float
    times: Callable[[Sequence[int] | Tensor], Tensor]
    seed: int

    def __getitems__(self, draws: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The source's batch and `times` int64, `unlabelled` bool and `noise_keys` int64, each (n,)."""
        return self.source.__getitems__(draws) | {
            "times": self.times(draws),
            "unlabelled": Draws(seed=self.seed, purpose="label dropout").uniform(draws) < self.label_dropout,
            "noise_keys": Draws(seed=self.seed, purpose="noise").keys(draws),
        }


class DiffusionWorkload(Transformer[T]):
    """A transformer that is judged by its mean loss over samples."""

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """`loss`: the mean over the samples."""
        return {"loss": (sums["loss_sum"].double() / sums["samples"].double()).item()}
