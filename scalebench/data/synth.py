"""A small image set in real files, for trials: shapes in class folders, with a mask for each. Torch-free.

`FOLDER/images/circle/0003.png` belongs to `FOLDER/masks/circle/0003.png`: class 0 is the background, then one class per
shape, and 255 along its edge. So `pairs:FOLDER` are its masks and `images:FOLDER/images` its classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scalebench.data.folders import IMAGES, MASKS
from scalebench.data.fresh import fresh_folder
from scalebench.data.pixels import IGNORED, load_pillow
from scalebench.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

SHAPES = {"circle": 0, "diamond": 4, "hexagon": 6, "pentagon": 5, "triangle": 3}
"""Name to number of corners; 0 for none. In sorted order, as classes are numbered."""
QUALITY = 90
"""Of JPEG files."""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """What is asked for: `per_class` images of each of `classes` shapes, their shorter side of `image_size`."""

    target: Path
    classes: int
    per_class: int
    image_size: int
    extension: str
    seed: int


def synthesise(asked: Synthesis, watched: Callable[[Sequence[str]], Iterable[str]] = lambda names: names) -> int:
    """Write the set; how many images it has. The same request gives the same pixels.

    Raises UserError when Pillow is missing or the folder is there already or cannot be written.
    """
    if not 1 <= asked.classes <= len(SHAPES):
        raise UserError(f"there are shapes for 1 to {len(SHAPES)} classes, not for {asked.classes}. Give --classes 3.")
    names = [f"{shape}/{index:04}" for shape in list(SHAPES)[: asked.classes] for index in range(asked.per_class)]
    with fresh_folder(asked.target) as folder:
        for name in watched(names):
            image, mask = drawn(
                name.split("/")[0], asked.image_size, np.random.default_rng([asked.seed, *name.encode()])
            )
            for part, picture, extension in ((IMAGES, image, asked.extension), (MASKS, mask, "png")):
                path = folder / part / f"{name}.{extension}"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path, quality=QUALITY)
    return len(names)


def drawn(shape: str, size: int, random: np.random.Generator) -> tuple[Image, Image]:
    """An image of one shape on a noisy ground, up to half as wide again as high or the reverse, and its mask."""
    pillow = load_pillow()
    from PIL import ImageDraw

    width, height = random.permutation([size, int(size * random.uniform(1, 1.5))]).tolist()
    noise = random.normal(random.uniform(60, 196, 3), 24, (height, width, 3))
    image = pillow.fromarray(noise.clip(0, 255).astype(np.uint8))
    mask = pillow.new("L", (width, height), 0)
    corners = _outline(SHAPES[shape], width, height, size, random)
    colour = tuple(random.integers(0, 256, 3).tolist())
    ImageDraw.Draw(image).polygon(corners, fill=colour)
    ImageDraw.Draw(mask).polygon(corners, fill=1 + list(SHAPES).index(shape), outline=IGNORED)
    return image, mask


def _outline(
    corners: int, width: int, height: int, size: int, random: np.random.Generator
) -> list[tuple[float, float]]:
    """A regular polygon somewhere around the middle, turned by chance; 32 corners are as good as a circle."""
    count = corners or 32
    radius, turn = size * random.uniform(0.2, 0.4), random.uniform(0, 2 * math.pi)
    across, down = (side / 2 + size * random.uniform(-0.1, 0.1) for side in (width, height))
    angles = [turn + 2 * math.pi * corner / count for corner in range(count)]
    return [(across + radius * math.cos(angle), down + radius * math.sin(angle)) for angle in angles]
