"""Images with a class per pixel, by global index: image and mask files, or made from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalebench.data.base import SampleSource
from scalebench.data.corrupt import without_corrupt
from scalebench.data.folders import list_pairs
from scalebench.data.images import byte_paths, listing_sha256, path_at
from scalebench.data.names import SYNTHETIC, DataName, help_of, parse
from scalebench.data.pixels import IGNORED, read_pair
from scalebench.data.samples import wrong_kind
from scalebench.data.synthetic import synthetic_pairs
from scalebench.errors import UserError

PAIR_READS = ("pairs", SYNTHETIC)


@dataclass(frozen=True, kw_only=True)
class PairFiles:
    """Sample i is the image `images[i]` and the mask `masks[i]`, decoded when it is asked for."""

    name: str
    sha256: str
    images: NDArray[np.bytes_]
    masks: NDArray[np.bytes_]
    image_size: int
    num_classes: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """`images` uint8 (n, 3, size, size) and `masks` int64 (n, size, size) at `indices`, counted round and round.

        Raises UserError that names the file which cannot be read, or whose mask does not fit.
        """
        rows = (torch.as_tensor(indices) % len(self)).tolist()
        found = [
            read_pair(path_at(self.images, row), path_at(self.masks, row), self.image_size, self.num_classes)
            for row in rows
        ]
        images, masks = zip(*found, strict=True)
        return {"images": torch.from_numpy(np.stack(images)), "masks": torch.from_numpy(np.stack(masks)).long()}


def open_pairs(data: str, *, seed: int, image_size: int, num_classes: int) -> SampleSource:
    """The images and masks that a spec's `data` names, of `image_size` pixels a side.

    Batches hold `images`, uint8 (n, 3, image_size, image_size), and `masks`, int64 (n, image_size, image_size): class
    numbers below `num_classes`, or 255 for pixels to ignore. Raises UserError when the data cannot be read.
    """
    if num_classes > IGNORED:
        raise UserError(f"masks know classes 0 to {IGNORED - 1}. Give --set workload.num_classes={IGNORED} or fewer.")
    name = parse(data)
    if name.kind == SYNTHETIC:
        return synthetic_pairs(seed=seed, image_size=image_size, num_classes=num_classes)
    if name.kind == "pairs":
        return open_pair_files(name, image_size=image_size, num_classes=num_classes)
    raise wrong_kind(data, help_of(PAIR_READS))


def open_pair_files(name: DataName, *, image_size: int, num_classes: int) -> PairFiles:
    """The pairs of a folder; the first is read at once, so that what will not do is told before any launch."""
    (images, masks), told = without_corrupt(name, list_pairs(Path(name.path), name.extensions))
    source = PairFiles(
        name=told,
        sha256=listing_sha256([images, masks]),
        images=byte_paths(images),
        masks=byte_paths(masks),
        image_size=image_size,
        num_classes=num_classes,
    )
    source.__getitems__([0])
    return source
