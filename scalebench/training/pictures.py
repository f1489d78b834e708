"""What workloads generate, as pictures: uint8 (n, channels, height, width), and many of them as one sheet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scalebench.data.decode import decoder_of
from scalebench.data.pixels import IGNORED, load_pillow
from scalebench.errors import UserError
from scalebench.records.training import Sheet
from scalebench.strategies.base import Batch
from scalebench.workloads.values import to_bytes

LATENT_REACH = 3.0
"""Latents have about the deviation 1: from black at -3 to white at 3."""
GAP = 2
"""Pixels between two pictures of a sheet."""
SHORTEST_SIDE = 64
"""Of a picture in a sheet: smaller ones are enlarged, a pixel to a square."""


@dataclass(frozen=True, kw_only=True)
class Pictured:
    """How a workload's samples are looked at.

    Attributes:
        real: a batch's own samples as pictures. made: what was generated from a batch.
        beside: whether a sample is shown beside the real one that it was made from.
    """

    real: Callable[[Batch], Tensor]
    made: Callable[[Tensor], Tensor]
    beside: bool = False

    def shown(self, batch: Batch, generated: Tensor) -> Tensor:
        """A picture per sample, on the CPU; with the real one to its left where it was made from that."""
        made = self.made(generated)
        return (torch.cat([self.real(batch), made], dim=-1) if self.beside else made).cpu()


def of_latents(latents: Tensor) -> Tensor:
    """Latents as they are, without an autoencoder: their first channels as colours."""
    return to_bytes(as_colours(latents.float()) / LATENT_REACH)


def as_colours(pictures: Tensor) -> Tensor:
    """The first three channels; the first alone where there are fewer."""
    return pictures[:, : 3 if pictures.size(1) >= 3 else 1]


def of_classes(masks: Tensor) -> Tensor:
    """Masks (n, height, width) of class numbers as colours: a class's bits, from the lowest on, set those of red, green
    and blue in turn, from the highest on (as PASCAL VOC's colours are made); ignored pixels are white."""
    colours = torch.zeros(256, 3, dtype=torch.uint8, device=masks.device)
    numbers = torch.arange(256, device=masks.device)
    for bit in range(8):
        set_here = (numbers >> bit & 1).to(torch.uint8)
        colours[:, bit % 3] |= set_here << (7 - bit // 3)
    colours[IGNORED] = 255
    return colours[masks].permute(0, 3, 1, 2)


def images_of(batch: Batch) -> Tensor:
    """A batch's images."""
    return as_colours(batch["images"])


def latent_pictures(shown: Callable[[Tensor], Tensor]) -> Pictured:
    """Latents, each as `shown` says."""
    return Pictured(real=lambda batch: shown(batch["latents"]), made=shown)


def _marked(batch: Batch) -> Tensor:
    """Images with their masks to the right."""
    return torch.cat([batch["images"], of_classes(batch["masks"])], dim=-1)


PICTURED = {
    "dit": latent_pictures(of_latents),
    "jit": Pictured(real=images_of, made=lambda images: as_colours(to_bytes(images))),
    "vavae": Pictured(real=images_of, made=as_colours, beside=True),
    "segmentation": Pictured(real=_marked, made=of_classes, beside=True),
}
"""By a workload's name."""
JUDGED = ("dit", "jit", "vavae")
"""Those that make what is like their data, so that a Frechet distance between the two says something."""


def pictured(workload: str, data: str) -> Pictured:
    """How samples of `workload` are looked at; latents of `data` through what made them, if it is there.

    Raises UserError for a workload that makes no pictures.
    """
    if workload not in PICTURED:
        raise UserError(f"{workload} makes no pictures. Leave --samples out, or train {', '.join(PICTURED)}.")
    decode = decoder_of(data) if workload == "dit" else None
    return latent_pictures(lambda latents: as_colours(decode(latents))) if decode else PICTURED[workload]


def sheet(pictures: Tensor) -> Tensor:
    """Pictures (n, channels, height, width) in rows, about as wide as high: uint8 (channels, height, width)."""
    enlarged = max(1, -(-SHORTEST_SIDE // min(pictures.shape[2:])))
    large = pictures.repeat_interleave(enlarged, 2).repeat_interleave(enlarged, 3)
    count, channels, height, width = large.shape
    columns = min(count, max(1, round(math.sqrt(count * height / width))))
    rows = -(-count // columns)
    made = large.new_full((channels, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP), 255)
    for index, picture in enumerate(large):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        made[:, top : top + height, left : left + width] = picture
    return made


@dataclass(frozen=True, kw_only=True)
class Sheets:
    """Where a training's pictures are kept: in `records`/`name`, of which the former is its record's folder."""

    records: Path
    name: str

    def keep(self, pictures: Tensor, step: int) -> Sheet:
        """Write pictures (n, channels, height, width) of 1 or 3 channels as one. Raises UserError when it cannot."""
        file = Path(self.name) / f"step-{step:08d}.png"
        pixels = sheet(pictures).permute(1, 2, 0).squeeze(-1).contiguous().numpy()
        try:
            (self.records / file).parent.mkdir(parents=True, exist_ok=True)
            load_pillow().fromarray(pixels).save(self.records / file)
        except OSError as error:
            raise UserError(
                f"the samples of step {step} cannot be written to {self.records / file}: {error.strerror}. "
                "Make room or permit it, and go on with --resume."
            ) from error
        return Sheet(step=step, samples=len(pictures), file=str(file))
