"""Flow matching along straight lines from noise (time 0) to images (time 1), by a model that predicts the image.

Lipman et al. 2023 (arXiv:2210.02747), Liu et al. 2023 (arXiv:2209.03003); the loss of the velocity that a predicted
image implies is that of Li & He 2025 (arXiv:2511.13720, section 4).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from scalebench.workloads.diffusion import per_sample_mean

LEAST_LEFT = 0.05
"""Time left to the image is taken for at least this where a velocity is divided by it."""
UNITS = 2**20
"""A time is written as a whole number of these parts, since engines that cast what is not whole would round it."""


def written(times: Tensor) -> Tensor:
    """Times in [0, 1] as int64 numbers of units."""
    return (times * UNITS).round().long()


def time_of(units: Tensor) -> Tensor:
    """The times that `written` wrote: fp32."""
    return units.float() / UNITS


def between(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Images on the way from `noise` to `clean`, both (n, channels, height, width), at `times` (n,)."""
    share = times[:, None, None, None]
    return share * clean + (1 - share) * noise


def losses(predicted: Tensor, clean: Tensor, times: Tensor) -> Tensor:
    """Each sample's mean squared error of the velocity, (n,): the image's error over the time that is left."""
    left = (1 - times).clamp(min=LEAST_LEFT)
    return per_sample_mean((predicted - clean).square()) / left.square()


def sample(clean_of: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Images from `noise` by Heun's method, the last step by Euler's.

    `clean_of` takes noisy images and their time, an fp32 scalar, and gives the clean images it sees in them.
    """

    def velocity(images: Tensor, time: Tensor) -> Tensor:
        return (clean_of(images, time) - images) / (1 - time).clamp(min=LEAST_LEFT)

    times = torch.linspace(0, 1, steps + 1, device=noise.device)
    images = noise
    for now, then in itertools.pairwise(times[:-1]):
        here = velocity(images, now)
        there = velocity(images + (then - now) * here, then)
        images = images + (then - now) * (here + there) / 2
    return images + (times[-1] - times[-2]) * velocity(images, times[-2])
