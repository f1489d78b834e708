"""Diffusion in a thousand steps: the noise schedule, the loss of a predicted noise and variance, and sampling.

Ho et al. 2020 (arXiv:2006.11239): linear schedule, noise prediction. Nichol & Dhariwal 2021 (arXiv:2102.09672): the
variance is learned by the variational bound, through which no gradient reaches the predicted noise. Sampling is that of
Song et al. 2021 (DDIM, arXiv:2010.02502), without noise of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scalebench.workloads.diffusion import per_sample_mean
from scalebench.workloads.dit_config import TIMESTEPS

FIRST_BETA, LAST_BETA = 1e-4, 0.02
BIN = 1 / 255
"""Half the width of an 8-bit value's bin in [-1, 1], which the bound's last step measures a density over."""
LEAST = 1e-12
"""Of a probability whose logarithm is taken."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What each sample's timestep makes of noise: fp32, (n, 1, 1, 1).

    Attributes:
        signal, noise: shares of the clean image and of the noise: roots of α̅ and 1 - α̅.
        beta_log, posterior_log: logarithms of the largest and the smallest variance a step back may have.
        mean_shift: how far the mean of the step back moves for an error of 1 in the predicted noise.
    """

    signal: Tensor
    noise: Tensor
    beta_log: Tensor
    posterior_log: Tensor
    mean_shift: Tensor


def kept_signal(device: torch.device) -> Tensor:
    """α̅ of every timestep: fp64, (TIMESTEPS,)."""
    return (1 - _betas(device)).cumprod(0)


def schedule_at(timesteps: Tensor) -> Schedule:
    """The schedule at int64 `timesteps` (n,), 0 to TIMESTEPS - 1; computed here, since a buffer would be cast."""
    betas, kept = _betas(timesteps.device), kept_signal(timesteps.device)
    before = torch.cat([kept.new_ones(1), kept[:-1]])
    posterior = betas * (1 - before) / (1 - kept)
    posterior = torch.cat([posterior[1:2], posterior[1:]])  # the first is zero
    mean_shift = betas * before.sqrt() / (1 - kept) * (1 / kept - 1).sqrt()
    rows = [kept.sqrt(), (1 - kept).sqrt(), betas.log(), posterior.log(), mean_shift]
    signal, noise, beta_log, posterior_log, shift = torch.stack(rows)[:, timesteps].float()[..., None, None, None]
    return Schedule(signal=signal, noise=noise, beta_log=beta_log, posterior_log=posterior_log, mean_shift=shift)


def _betas(device: torch.device) -> Tensor:
    return torch.linspace(FIRST_BETA, LAST_BETA, TIMESTEPS, dtype=torch.float64, device=device)


def losses(output: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Each sample's loss, (n,): the squared error of the noise and, where `output` has twice the channels of `clean`,
    one term of the variational bound in bits per value."""
    channels = clean.size(1)
    predicted = output[:, :channels]
    squared = per_sample_mean((predicted - noise).square())
    if output.size(1) == channels:
        return squared
    error = predicted.detach() - noise
    return squared + bound_terms(error, output[:, channels:], clean, schedule_at(timesteps), timesteps)


def bound_terms(error: Tensor, between: Tensor, clean: Tensor, schedule: Schedule, timesteps: Tensor) -> Tensor:
    """One term of the bound per sample, in bits per value, (n,).

    The step back from a timestep is normal, its mean off by `mean_shift · error`, its log-variance between the smallest
    (`between` -1) and the largest (1). Above timestep 0 the term is its divergence from the true step; at 0 it is the
    negative log-likelihood of the clean values, each as the 8-bit bin around it.
    """
    share = (between + 1) / 2
    log_variance = share * schedule.beta_log + (1 - share) * schedule.posterior_log
    off = schedule.mean_shift * error
    ratio = schedule.posterior_log - log_variance
    divergence = 0.5 * (-1 - ratio + ratio.exp() + off.square() * (-log_variance).exp())
    likelihood = -_bin_log_likelihood(off, log_variance, clean)
    nats = torch.where(timesteps[:, None, None, None] == 0, likelihood, divergence)
    return per_sample_mean(nats) / math.log(2)


def _bin_log_likelihood(off: Tensor, log_variance: Tensor, clean: Tensor) -> Tensor:
    """Of the bins around `clean` under normals whose means are `off` below them; the outermost reach to infinity."""
    precision = (-0.5 * log_variance).exp()
    below, above = torch.special.ndtr(precision * (off - BIN)), torch.special.ndtr(precision * (off + BIN))
    inside = torch.where(clean < -0.999, above, torch.where(clean > 0.999, 1 - below, above - below))
    return inside.clamp(min=LEAST).log()


def sample(predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Images from `noise` (n, channels, height, width) in `steps` deterministic steps.

    `predict` takes noisy images and the timestep they are at, an int64 scalar, and gives the noise in them.
    """
    kept = kept_signal(noise.device)
    visited = torch.linspace(TIMESTEPS - 1, 0, steps, device=noise.device).round().long()
    after = torch.cat([kept[visited[1:]], kept.new_ones(1)])
    images = noise
    for timestep, now, then in zip(visited, kept[visited].float(), after.float(), strict=True):
        found = predict(images, timestep)
        clean = (images - (1 - now).sqrt() * found) / now.sqrt()
        images = then.sqrt() * clean + (1 - then).sqrt() * found
    return images
