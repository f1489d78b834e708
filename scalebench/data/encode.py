"""Images as the latents of an autoencoder, written once, so that a latent diffusion model need not.

A folder with `latents.npy` (float32, N x channels x side x side), `labels.npy` (int64, N) and `latents.json`, which
says from what, and how to go back: latents have mean 0 and deviation 1 per channel, and
z = latents · channel_std + channel_mean is what the decoder takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scalebench import workloads
from scalebench.data.base import SampleSource
from scalebench.data.batches import fetched
from scalebench.data.fresh import fresh_folder
from scalebench.data.images import open_images
from scalebench.errors import UserError
from scalebench.workloads.checkpoint import matching_state
from scalebench.workloads.checkpoint_name import checkpoint_sha256
from scalebench.workloads.options import Scalar
from scalebench.workloads.values import from_bytes

MANIFEST = "latents.json"
LEAST_DEVIATION = 1e-6
"""Of a channel: one that never changes stays as it is."""

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What is asked for. `data`, `checkpoint` and `options` are resolved, as a spec stores them."""

    target: Path
    workload: str
    size: str
    options: Mapping[str, Scalar]
    checkpoint: str
    data: str
    batch_size: int
    num_workers: int
    device: str


def encode(asked: Encoding, watched: Callable[[Sequence[Tensor]], Iterable[Tensor]] = lambda rows: rows) -> int:
    """Write the latents of all images of `asked.data`: the means of the encoder's posterior. Returns how many.

    Args:
        watched: passes the batches' rows on, one by one, and so sees how far it is.

    Raises UserError, with nothing written, for a workload without an encoder, a checkpoint of another model, data that
    cannot be read, latents that are not finite, and a target that is there already.
    """
    workload = workloads.create(asked.workload, asked.size, asked.options)
    module = trained(workload, asked.checkpoint).to(asked.device)
    images = _images(asked)
    rows = torch.split(torch.arange(len(images)), asked.batch_size)
    with fresh_folder(asked.target) as folder:
        batches = fetched(images, watched(rows), asked.num_workers)
        latents, labels = _filled(folder, len(images), (_encoded(module, batch, asked) for batch in batches))
        np.save(folder / "labels.npy", labels)
        mean, deviation = _standardise_(latents, asked.batch_size)
        facts = _manifest(asked, images) | {"channel_mean": mean, "channel_std": deviation}
        (folder / MANIFEST).write_text(json.dumps(facts, indent=1))
    return len(images)


def trained(workload: Any, checkpoint: str) -> nn.Module:
    """The module with the checkpoint's values, ready to encode."""
    with torch.device("meta"):
        module: nn.Module = workload.build()
    if not hasattr(module, "encode"):
        raise UserError(f"{workload.name} has no encoder. Give --workload vavae.")
    module.load_state_dict(matching_state(workload, checkpoint), strict=False, assign=True)
    return module.float().eval()


def _images(asked: Encoding) -> SampleSource:
    options: Any = asked.options
    return open_images(
        asked.data,
        seed=0,
        image_size=options["image_size"],
        channels=options["channels"],
        num_classes=options["num_classes"] if options["condition_dim"] else None,
    )


def _encoded(module: Any, batch: Mapping[str, Tensor], asked: Encoding) -> tuple[Array, Array]:
    """The latents of a batch of images, float32, and their labels."""
    length: Any = asked.options["condition_dim"]
    condition = F.one_hot(batch["labels"], length).float().to(asked.device) if length else None
    with torch.inference_mode():
        mean = module.encode(from_bytes(batch["images"].to(asked.device)), condition)[0].float().cpu()
    if not mean.isfinite().all():
        raise UserError(f"the encoder of {asked.checkpoint} gives values that are not finite. Give another checkpoint.")
    return mean.numpy(), batch["labels"].numpy()


def _filled(folder: Path, count: int, encoded: Iterable[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The latents of all batches, in a file that is filled as they come, and the labels."""
    labels = np.empty(count, np.int64)
    latents: Array | None = None
    start = 0
    for means, of_batch in encoded:
        if latents is None:
            shape = (count, *means.shape[1:])
            latents = np.lib.format.open_memmap(folder / "latents.npy", "w+", np.dtype(np.float32), shape)
        end = start + len(means)
        latents[start:end], labels[start:end] = means, of_batch
        start = end
    assert latents is not None, "a source has samples"
    return latents, labels


def _standardise_(latents: Array, at_once: int) -> tuple[list[float], list[float]]:
    """Bring each channel to mean 0 and deviation 1, in place; its mean and deviation before."""
    parts = [slice(start, start + at_once) for start in range(0, len(latents), at_once)]
    values = latents.size / latents.shape[1]

    def channel_mean(of: Callable[[Array], Array]) -> Array:
        sums: Array = np.zeros(latents.shape[1])
        for part in parts:
            sums += of(latents[part].astype(np.float64)).sum((0, 2, 3)) / values
        return sums

    mean = channel_mean(lambda part: part)
    deviation = np.sqrt(channel_mean(lambda part: (part - mean[:, None, None]) ** 2))
    deviation[deviation < LEAST_DEVIATION] = 1.0
    for part in parts:
        latents[part] = (latents[part] - mean[:, None, None]) / deviation[:, None, None]
    return mean.tolist(), deviation.tolist()


def _manifest(asked: Encoding, images: SampleSource) -> dict[str, object]:
    """From what the latents came about."""
    return {
        "workload": asked.workload,
        "size": asked.size,
        "options": dict(asked.options),
        "checkpoint": asked.checkpoint,
        "checkpoint_sha256": checkpoint_sha256(asked.checkpoint),
        "data": images.name,
        "data_sha256": images.sha256,
        "samples": len(images),
    }
