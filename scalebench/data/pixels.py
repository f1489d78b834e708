"""Image and mask files as arrays of the size a model takes; one geometry for images, masks and strategies. Torch-free.

The shorter side is scaled to the size (images by Pillow's antialiased bilinear filter, masks by the nearest pixel), and
the middle is cut out. Nothing is turned by EXIF, nothing is random.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scalebench.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_MODES = {1: "L", 3: "RGB"}
"""Channels to Pillow's name of such images."""
NUMBER_MODES = ("1", "L", "P", "I", "I;16")
"""Images whose pixels are single whole numbers."""
IGNORED = 255
"""The class of pixels that belong to none."""


def read_image(path: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """(channels, size, size) of an image file. Raises UserError that names the file when it cannot be read."""
    with opened(path) as image:
        return _image_array(image, size, channels)


def read_pair(
    image_path: Path, mask_path: Path, size: int, num_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(3, size, size) of an image and (size, size) of its mask: class numbers, or 255 where a pixel is ignored.

    Raises UserError that names both files when their sizes differ, and the mask when it is not one of `num_classes`.
    """
    with opened(image_path) as image, opened(mask_path) as mask:
        if image.size != mask.size:
            raise UserError(
                f"the mask {mask_path} has {mask.width}x{mask.height} pixels, its image {image_path} "
                f"{image.width}x{image.height}. Make them of one size, or remove the pair."
            )
        return _image_array(image, size, 3), _mask_array(mask, mask_path, size, num_classes)


def require_channels(channels: int) -> None:
    """Raise UserError for numbers of channels that image files do not come in."""
    if channels not in IMAGE_MODES:
        raise UserError(
            f"image files are read with 1 or 3 channels, and the model takes {channels}. Use --data arrays:"
        )


def why_unreadable(path: Path) -> str | None:
    """What is wrong with an image file, found by decoding all of it; None for a good one."""
    try:
        opened(path).close()
    except UserError as error:
        return str(error)
    return None


def opened(path: Path) -> Image:
    """The decoded image of a file, to be closed. Raises UserError for whatever its decoder finds wrong."""
    pillow = load_pillow()
    try:
        with path.open("rb") as file:
            image: Image = pillow.open(file)
            image.load()
        if image.mode == "F":
            raise ValueError("its pixels are fractions, not bytes")
    except MemoryError:
        raise
    except Exception as error:  # decoders of broken bytes fail in every way there is
        raise UserError(
            f"cannot read the image {path}: {_said(error)}. "
            "Mend, replace or remove it, or leave such files out: --data 'KIND:FOLDER?skip_corrupt=true'."
        ) from error
    return image


def load_pillow() -> Any:
    """The module PIL.Image. Raises UserError where it is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise UserError(
            "image files need Pillow, which is missing. Type: pip install 'scalebench-suite[data]'"
        ) from None
    return Image


def _said(error: Exception) -> str:
    """Why, in a few words that do not repeat the file's name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = " ".join(str(error).split()).rstrip(".")
    return "it is no image that Pillow knows" if "cannot identify" in said else said or type(error).__name__


def _image_array(image: Image, size: int, channels: int) -> NDArray[np.uint8]:
    """0 to 255; 16 bits are cut to 8, transparency is dropped."""
    if image.mode.startswith("I"):
        high = np.asarray(image).astype(np.uint32) >> 8
        image = load_pillow().fromarray(high.clip(0, 255).astype(np.uint8))
    square = _middle(image.convert(IMAGE_MODES[channels]), size, load_pillow().Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1))


def _mask_array(mask: Image, path: Path, size: int, num_classes: int) -> NDArray[np.uint8]:
    if mask.mode not in NUMBER_MODES:
        raise UserError(
            f"the mask {path} holds colours ({mask.mode}). Store the number of each pixel's class in one channel."
        )
    values = np.asarray(mask).astype(np.int64)
    unknown = values[(values != IGNORED) & ((values < 0) | (values >= num_classes))]
    if unknown.size:
        raise UserError(
            f"the mask {path} holds class {unknown.flat[0]}; the model knows 0 to {num_classes - 1}, and {IGNORED} "
            "for pixels to ignore. Give --set workload.num_classes=N, or mend the mask."
        )
    pillow = load_pillow()
    return np.asarray(_middle(pillow.fromarray(values.astype(np.uint8)), size, pillow.Resampling.NEAREST))


def _middle(image: Image, size: int, resampling: Any) -> Image:
    """`image` with its shorter side scaled to `size`, and of that the middle square."""
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    return image.resize((size, size), resampling, box=(left, top, left + short, top + short))
