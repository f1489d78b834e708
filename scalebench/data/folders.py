"""Image files below a folder: which they are, of what class, and the mask that belongs to each. Torch-free.

Class folders: `FOLDER/cat/x.jpg` is of class `cat`, whatever lies deeper. Classes are numbered in sorted order, empty
ones too, so that the parts of a split set number them alike. Images that lie in FOLDER itself have no class, which is
class 0; a folder has the one or the other. Pairs:
`FOLDER/images/a/x.jpg` belongs to `FOLDER/masks/a/x.png`.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalebench.errors import UserError

IMAGES, MASKS = "images", "masks"
SPLIT_MANIFEST = "split.json"
"""What lies in a folder beside the parts of a split set."""
MASK_EXTENSIONS = ("png", "tif", "tiff", "bmp")
"""Formats that keep class numbers as they are, in the order in which they are looked for."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Files of a folder in sorted order, by relative path with `/`, and their sizes in bytes.

    `folders` are the names of the folders right below it, whether or not they hold any.
    """

    root: Path
    names: list[str]
    sizes: list[int]
    folders: Sequence[str] = ()

    @property
    def paths(self) -> list[Path]:
        return [self.root / name for name in self.names]

    def where(self, chosen: Sequence[bool]) -> Listing:
        """The files at the places that are chosen."""
        return Listing(
            root=self.root,
            names=list(itertools.compress(self.names, chosen)),
            sizes=list(itertools.compress(self.sizes, chosen)),
            folders=self.folders,
        )

    @property
    def class_of_each(self) -> list[str]:
        """The first folder of each file's path; empty for files without one."""
        return [name.split("/", 1)[0] if "/" in name else "" for name in self.names]

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their numbers; one without a name where the files are in no folders."""
        return sorted(self.folders) if any("/" in name for name in self.names) else [""]


def list_images(folder: Path, extensions: Sequence[str]) -> Listing:
    """Every file below `folder` with one of `extensions` (any case), hidden files and folders left out.

    Raises UserError when there is none, when some are in class folders and some in none, for a folder of parts, and
    when a folder cannot be read.
    """
    if (folder / SPLIT_MANIFEST).is_file():
        raise UserError(f"{folder} holds the parts of a split set, which are no classes. Give one of them.")
    try:
        found, folders = sorted(_walk(folder)), _folders(folder)
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename or folder}: {error.strerror}. Mend it, or give another folder."
        ) from error
    listed = [(name, size) for name, size in found if extension(name) in extensions]
    if not listed:
        raise UserError(
            f"no {', '.join(extensions)} files in {folder}; it holds {_what_is_there(found)}. "
            "Give another folder, or the extensions that its images have."
        )
    names, sizes = [name for name, _ in listed], [size for _, size in listed]
    listing = Listing(root=folder, names=names, sizes=sizes, folders=folders)
    _require_one_layout(listing)
    return listing


def extension(name: str) -> str:
    """`jpg` for `a/b.JPG`, nothing for a name without a dot."""
    return os.path.splitext(name)[1].lstrip(".").lower()


def _walk(folder: Path, before: str = "") -> Iterator[tuple[str, int]]:
    """Regular files below `folder`, links followed, by relative path with `before` before it, and their sizes.

    Raises OSError.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{before}{entry.name}/")
            elif entry.is_file():
                yield f"{before}{entry.name}", entry.stat().st_size
            elif entry.is_symlink():
                raise FileNotFoundError(errno.ENOENT, "it links to a file that is gone", entry.path)


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _what_is_there(found: Sequence[tuple[str, int]]) -> str:
    counts = Counter(extension(name) or "no extension" for name, _ in found)
    return ", ".join(f"{count} of {name}" for name, count in counts.most_common(5)) or "no files"


def _require_one_layout(listing: Listing) -> None:
    loose = [name for name in listing.names if "/" not in name]
    if loose and len(loose) < len(listing.names):
        raise UserError(
            f"in {listing.root} {len(loose)} images, such as {loose[0]}, lie beside folders of images. "
            "Move them into the folder of their class, or the folders away."
        )


def list_pairs(folder: Path, extensions: Sequence[str]) -> tuple[Listing, Listing]:
    """The images of `folder`/images and their masks in `folder`/masks, in the same order.

    Raises UserError as `list_images`, when either folder is missing, and for an image without a mask.
    """
    for part in (IMAGES, MASKS):
        if not (folder / part).is_dir():
            raise UserError(f"{folder} has no folder '{part}'. Pairs lie in {IMAGES}/a.jpg and {MASKS}/a.png.")
    images = list_images(folder / IMAGES, extensions)
    masks = list_images(folder / MASKS, MASK_EXTENSIONS)
    return images, _matching(images, masks)


def _matching(images: Listing, masks: Listing) -> Listing:
    """The masks of `images`, one each."""
    sizes = dict(zip(masks.names, masks.sizes, strict=True))
    names = [_mask_of(name, sizes, images.root, masks.root) for name in images.names]
    return Listing(root=masks.root, names=names, sizes=[sizes[name] for name in names])


def _mask_of(name: str, there: dict[str, int], images: Path, masks: Path) -> str:
    stem = os.path.splitext(name)[0]
    for ending in MASK_EXTENSIONS:
        if f"{stem}.{ending}" in there:
            return f"{stem}.{ending}"
    raise UserError(
        f"the image {images / name} has no mask {masks / stem}.png (or {', '.join(MASK_EXTENSIONS[1:])}). "
        "Add it, or move the image away."
    )
