"""scikit-learn's digits: 1,797 real images of handwritten digits, 8x8 pixels, that come inside that package.

The test set of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from scalebench.data.names import DataName
from scalebench.data.samples import TensorSamples, require_classes
from scalebench.errors import UserError

BRIGHTEST = 16
"""Pixels are stored as 0 to 16."""
HELD_OUT = 5
"""Of each class, every fifth image belongs to the part `val`."""


def open_digits(name: DataName, *, image_size: int, channels: int, num_classes: int | None) -> TensorSamples:
    """All digits, or the part that `name` asks for, in the package's order; 0 to 16 become 0 to 255.

    8x8 pixels are scaled to the image size by antialiased bilinear interpolation, and are the same in every channel.
    Raises UserError when scikit-learn is missing or the model has fewer than ten classes.
    """
    require_classes([str(digit) for digit in range(10)], num_classes, "digits")
    pixels, classes = _stored()
    chosen = torch.from_numpy(_chosen(classes, name.options.get("part")))
    small = torch.from_numpy(pixels).float().mul(255 / BRIGHTEST).unsqueeze(1)
    size = (image_size, image_size)
    scaled = F.interpolate(small[chosen], size=size, mode="bilinear", antialias=True).round().clamp(0, 255)
    return TensorSamples(
        name=str(name),
        sha256=hashlib.sha256(pixels.tobytes() + classes.tobytes()).hexdigest(),
        columns={
            "images": scaled.to(torch.uint8).expand(-1, channels, -1, -1),
            "labels": torch.from_numpy(classes)[chosen],
        },
        dtypes={"images": torch.uint8, "labels": torch.int64},
    )


def _chosen(classes: NDArray[np.int64], part: str | None) -> NDArray[np.int64]:
    """The numbers of the images in a part."""
    rank_in_class = np.zeros(len(classes), np.int64)
    for label in range(10):
        mine = classes == label
        rank_in_class[mine] = np.arange(mine.sum())
    held_out = rank_in_class % HELD_OUT == HELD_OUT - 1
    wanted = {None: np.ones_like(held_out), "train": ~held_out, "val": held_out}[part]
    return np.flatnonzero(wanted)


def _stored() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(1797, 8, 8) and (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "the digits come with scikit-learn, which is missing. Type: pip install 'scalebench-suite[data]', "
            "or give --data synthetic."
        ) from None
    found: Any = load_digits()
    return found.images.astype(np.uint8), found.target.astype(np.int64)
