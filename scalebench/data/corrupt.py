"""Image files that cannot be decoded, found before a run and left out where that was asked for. Torch-free.

Every rank must leave out the same files, so all are decoded once; what was found is kept until a file changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from scalebench.data.cache import kept
from scalebench.data.folders import Listing
from scalebench.data.names import DataName
from scalebench.data.pixels import why_unreadable
from scalebench.errors import UserError


def without_corrupt(name: DataName, listings: Sequence[Listing]) -> tuple[list[Listing], str]:
    """`listings` without the places at which any has an unreadable file, if `name` says `skip_corrupt`.

    Also how the data are called in a record, with the number of files left out. Raises UserError when none is left.
    """
    if not name.skip_corrupt:
        return list(listings), str(name)
    reasons = [_reasons(listing.paths) for listing in listings]
    bad = [any(of_place) for of_place in zip(*reasons, strict=True)]
    if all(bad):
        raise UserError(f"none of the {len(bad)} images of {name.path} can be read: {reasons[0][0] or reasons[-1][0]}")
    left = [listing.where([not one for one in bad]) for listing in listings]
    return left, f"{name} ({sum(bad)} of {len(bad)} unreadable, left out)"


def _reasons(paths: Sequence[Path]) -> list[str | None]:
    """Per file what is wrong with it, or None."""

    def write(out: BinaryIO) -> None:
        with ThreadPoolExecutor() as pool:
            out.write(json.dumps(list(pool.map(why_unreadable, paths))).encode())

    found: list[str | None] = json.loads(kept(paths, "corrupt", write).read_bytes())
    return found
