"""Splitting a folder of images into parts for training, validation and test. Torch-free.

Which part an image goes to follows from the seed and its path alone: the images of each class are dealt out in the
order of a hash of both, as many to each part as its ratio says. Masks go with their images.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalebench.data.folders import IMAGES, MASKS, SPLIT_MANIFEST, Listing, list_images, list_pairs
from scalebench.data.fresh import fresh_folder
from scalebench.errors import UserError

MODES: Mapping[str, Callable[[Path, Path], object]] = {
    "copy": shutil.copy2,
    "link": lambda source, target: os.symlink(source.resolve(), target),
    "hardlink": lambda source, target: os.link(source.resolve(), target),
}

Move = tuple[Path, str]
"""A file, and its path in the folder that is written."""
Watched = Callable[[Sequence[Move]], Iterable[Move]]


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """What is asked for. `ratios` of the parts by name, in order, add up to 1."""

    source: Path
    target: Path
    ratios: Mapping[str, float]
    extensions: Sequence[str]
    seed: int
    mode: str


def split(asked: Splitting, watched: Watched = lambda moves: moves) -> dict[str, Counter[str]]:
    """Write the parts; how many images of each class are in each.

    Args:
        watched: passes the files on, one by one, and so sees how far it is.

    Raises UserError, with nothing written, for ratios that do not add up, a part that would be empty, images without
    masks, a target that is there already or lies in the source, and whatever cannot be read or written.
    """
    require_ratios(asked.ratios)
    if asked.target.resolve().is_relative_to(asked.source.resolve()):
        raise UserError(f"{asked.target} lies in {asked.source}, which would then hold its images twice. Give another.")
    listings = _listings(asked)
    images = listings[0][1]
    parts = assign(images, asked.ratios, asked.seed)
    counts = {part: Counter[str]() for part in asked.ratios}
    for part, class_name in zip(parts, images.class_of_each, strict=True):
        counts[part][class_name] += 1
    _require_filled(counts, asked.ratios)
    with fresh_folder(asked.target) as folder:
        _write(folder, listings, parts, asked, watched)
        (folder / SPLIT_MANIFEST).write_text(json.dumps(_manifest(asked, counts), indent=1))
    return counts


def _write(
    folder: Path, listings: Sequence[tuple[str, Listing]], parts: Sequence[str], asked: Splitting, watched: Watched
) -> None:
    """Put the files of all parts into `folder`; each class has a folder in each part, so that numbers agree."""
    for part, class_name in itertools.product(asked.ratios, listings[0][1].classes):
        (folder / part / listings[0][0] / class_name).mkdir(parents=True)
    for source, name in watched(_moves(listings, parts)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        MODES[asked.mode](source, folder / name)


def require_ratios(ratios: Mapping[str, float]) -> None:
    """Raise UserError unless they add up to 1."""
    total = sum(ratios.values())
    if not abs(total - 1) <= 1e-6:
        said = " + ".join(f"{ratio:g} ({part})" for part, ratio in ratios.items())
        raise UserError(f"the ratios {said} add up to {total:g} rather than 1. Change one of them.")


def assign(images: Listing, ratios: Mapping[str, float], seed: int) -> list[str]:
    """The part of each image."""
    members = defaultdict(list)
    for index, class_name in enumerate(images.class_of_each):
        members[class_name].append(index)
    parts = [""] * len(images.names)
    for indices in members.values():
        shuffled = sorted(indices, key=lambda index: _draw(seed, images.names[index]))
        dealt = (part for part, count in quotas(len(indices), ratios).items() for _ in range(count))
        for index, part in zip(shuffled, dealt, strict=True):
            parts[index] = part
    return parts


def quotas(count: int, ratios: Mapping[str, float]) -> dict[str, int]:
    """`count` images by ratio, in whole numbers: those with the largest remainders get the ones left over."""
    exact = {part: count * ratio for part, ratio in ratios.items()}
    whole = {part: int(share + 1e-9) for part, share in exact.items()}
    by_remainder = sorted(ratios, key=lambda part: whole[part] - exact[part])
    for part in by_remainder[: count - sum(whole.values())]:
        whole[part] += 1
    return whole


def _draw(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(errors="surrogateescape"), digest_size=16).digest()


def _listings(asked: Splitting) -> list[tuple[str, Listing]]:
    """The images, and their masks if there are any, each with the folder that they lie in within a part."""
    if not all((asked.source / part).is_dir() for part in (IMAGES, MASKS)):
        return [("", list_images(asked.source, asked.extensions))]
    images, masks = list_pairs(asked.source, asked.extensions)
    return [(IMAGES, images), (MASKS, masks)]


def _moves(listings: Sequence[tuple[str, Listing]], parts: Sequence[str]) -> list[Move]:
    return [
        (listing.root / name, os.path.join(part, folder, name))
        for folder, listing in listings
        for name, part in zip(listing.names, parts, strict=True)
    ]


def _require_filled(counts: Mapping[str, Counter[str]], ratios: Mapping[str, float]) -> None:
    images = sum(of_part.total() for of_part in counts.values())
    for part, of_part in counts.items():
        if not of_part:
            raise UserError(
                f"no image would be in {part}: of {images} images, {ratios[part]:g} of each class is less than one. "
                "Give more images, or a larger ratio."
            )


def _manifest(asked: Splitting, counts: Mapping[str, Counter[str]]) -> dict[str, object]:
    """How the parts came about, so that they can be made again."""
    return {
        "source": str(asked.source.resolve()),
        "seed": asked.seed,
        "ratios": dict(asked.ratios),
        "extensions": list(asked.extensions),
        "mode": asked.mode,
        "images": {part: dict(sorted(of_part.items())) for part, of_part in counts.items()},
    }
