"""Latents of an autoencoder by global index: arrays as `scalebench data encode` writes them, or made from a seed."""

from __future__ import annotations

from scalebench.data.arrays import open_arrays
from scalebench.data.base import SampleSource
from scalebench.data.names import SYNTHETIC, help_of, parse
from scalebench.data.samples import wrong_kind
from scalebench.data.synthetic import synthetic_latents

LATENT_READS = ("arrays", SYNTHETIC)


def open_latents(
    data: str, *, seed: int, channels: int, latent_size: int, num_classes: int | None = None
) -> SampleSource:
    """The latents that a spec's `data` names.

    Batches hold `latents`, float32 (n, channels, latent_size, latent_size), and `labels`, int64 (n,). Raises UserError
    when the data cannot be read or have another shape.
    """
    name = parse(data)
    if name.kind == SYNTHETIC:
        return synthetic_latents(seed=seed, channels=channels, latent_size=latent_size, num_classes=num_classes)
    if name.kind == "arrays":
        return open_arrays(name, "latents", (channels, latent_size, latent_size), num_classes)
    raise wrong_kind(data, help_of(LATENT_READS))
