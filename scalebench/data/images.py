"""Image samples by global index: image files, arrays, scikit-learn's digits, or made from a seed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalebench.data.arrays import open_arrays
from scalebench.data.base import SampleSource
from scalebench.data.cache import contents_sha256
from scalebench.data.corrupt import without_corrupt
from scalebench.data.digits import open_digits
from scalebench.data.folders import Listing, list_images
from scalebench.data.names import SYNTHETIC, DataName, help_of, parse
from scalebench.data.pixels import read_image, require_channels
from scalebench.data.samples import require_classes, wrong_kind
from scalebench.data.synthetic import synthetic_images

IMAGE_READS = ("images", "arrays", "digits", SYNTHETIC)
HASHED_BYTES = 2**30
"""Of a set's contents, about as many go into its hash at most."""


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Sample i is the file `paths[i]`, decoded when it is asked for, and the number of its class.

    Paths are one array of bytes: a list of a million strings would be copied into every loading process as their
    reference counts change.
    """

    name: str
    sha256: str
    paths: NDArray[np.bytes_]
    labels: Tensor
    image_size: int
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """`images` uint8 (n, channels, size, size) and `labels` int64 (n,) at `indices`, counted round and round.

        Raises UserError that names the file which cannot be read.
        """
        rows = torch.as_tensor(indices) % len(self)
        pixels = [read_image(path_at(self.paths, row), self.image_size, self.channels) for row in rows.tolist()]
        return {"images": torch.from_numpy(np.stack(pixels)), "labels": self.labels[rows]}


def open_images(
    data: str, *, seed: int, image_size: int, channels: int, num_classes: int | None = None
) -> SampleSource:
    """The images that a spec's `data` names, of `image_size` pixels a side.

    Batches hold `images`, uint8 (n, channels, image_size, image_size), and `labels`, int64 (n,), 0 where the data have
    no classes. With `num_classes` None the labels may be anything. Raises UserError when the data cannot be read.
    """
    name = parse(data)
    if name.kind == SYNTHETIC:
        return synthetic_images(seed=seed, image_size=image_size, channels=channels, num_classes=num_classes)
    if name.kind == "digits":
        return open_digits(name, image_size=image_size, channels=channels, num_classes=num_classes)
    if name.kind == "arrays":
        return open_arrays(name, "images", (channels, image_size, image_size), num_classes)
    if name.kind == "images":
        return open_image_files(name, image_size=image_size, channels=channels, num_classes=num_classes)
    raise wrong_kind(data, help_of(IMAGE_READS))


def open_image_files(name: DataName, *, image_size: int, channels: int, num_classes: int | None) -> ImageFiles:
    """The image files of a folder; the first is read at once, so that what will not do is told before any launch."""
    require_channels(channels)
    (listing,), told = without_corrupt(name, [list_images(Path(name.path), name.extensions)])
    require_classes(listing.classes, num_classes, name.path)
    number = {class_name: index for index, class_name in enumerate(listing.classes)}
    source = ImageFiles(
        name=told,
        sha256=listing_sha256([listing]),
        paths=byte_paths(listing),
        labels=torch.tensor([number[class_name] for class_name in listing.class_of_each]),
        image_size=image_size,
        channels=channels,
    )
    source.__getitems__([0])
    return source


def byte_paths(listing: Listing) -> NDArray[np.bytes_]:
    """The absolute paths of a listing as one array."""
    return np.array([os.fsencode(f"{listing.root}/{name}") for name in listing.names])


def path_at(paths: NDArray[np.bytes_], row: int) -> Path:
    return Path(os.fsdecode(paths[row]))


def listing_sha256(listings: Iterable[Listing]) -> str:
    """Of classes, names, sizes and contents; of contents beyond a GiB those of files spread evenly over the set, which
    come to about as much: reading all of a large one only to know it again would take long."""
    digest = hashlib.sha256()
    for listing in listings:
        digest.update("\0".join(listing.classes).encode(errors="surrogateescape"))
        for name, size in zip(listing.names, listing.sizes, strict=True):
            digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
        every = max(1, -(-sum(listing.sizes) // HASHED_BYTES))
        digest.update(contents_sha256(listing.paths[::every]).encode())
    return digest.hexdigest()
