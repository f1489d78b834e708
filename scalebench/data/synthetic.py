"""Samples made from a seed in real shapes: pixels and classes drawn evenly, latents from N(0, 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scalebench.data.names import SYNTHETIC
from scalebench.data.pixels import IGNORED
from scalebench.data.samples import TensorSamples

SYNTHETIC_SAMPLES = 4096
STEP = 4099
"""Sample i begins so many values after sample i - 1 in one row of values that all share: thousands of large images
would not fit into memory, and making each when it is asked for would cost the step time. A prime, so that rows and
columns of neighbours do not coincide."""


def synthetic_images(*, seed: int, image_size: int, channels: int, num_classes: int | None) -> TensorSamples:
    """Images of evenly drawn bytes, labels of evenly drawn classes (0 without classes)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (channels, image_size, image_size)
    pixels = torch.randint(256, _values(shape), generator=generator, dtype=torch.uint8)
    return _made(seed, images=_windows(pixels, shape), labels=_labels(num_classes, generator))


def synthetic_pairs(*, seed: int, image_size: int, num_classes: int) -> TensorSamples:
    """RGB images as above; masks of evenly drawn classes, of which one more stands for pixels to ignore."""
    generator = torch.Generator().manual_seed(seed)
    image, mask = (3, image_size, image_size), (image_size, image_size)
    pixels = torch.randint(256, _values(image), generator=generator, dtype=torch.uint8)
    classes = torch.randint(num_classes + 1, _values(mask), generator=generator)
    classes[classes == num_classes] = IGNORED
    return _made(seed, images=_windows(pixels, image), masks=_windows(classes.to(torch.uint8), mask))


def synthetic_latents(*, seed: int, channels: int, latent_size: int, num_classes: int | None) -> TensorSamples:
    """Latents of normal values and labels of evenly drawn classes."""
    generator = torch.Generator().manual_seed(seed)
    shape = (channels, latent_size, latent_size)
    values = torch.randn(_values(shape), generator=generator)
    return _made(seed, latents=_windows(values, shape), labels=_labels(num_classes, generator))


def _values(shape: tuple[int, ...]) -> tuple[int]:
    """How many values the samples of `shape` share."""
    return (math.prod(shape) + STEP * (SYNTHETIC_SAMPLES - 1),)


def _windows(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return values.as_strided((SYNTHETIC_SAMPLES, *shape), (STEP, *strides))


def _labels(num_classes: int | None, generator: torch.Generator) -> Tensor:
    return torch.randint(num_classes or 1, (SYNTHETIC_SAMPLES,), generator=generator)


def _made(seed: int, **columns: Tensor) -> TensorSamples:
    dtypes = {"images": torch.uint8, "latents": torch.float32, "labels": torch.int64, "masks": torch.int64}
    return TensorSamples(name=f"{SYNTHETIC} (seed {seed})", sha256=None, columns=columns, dtypes=dtypes)
