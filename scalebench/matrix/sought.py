"""What of a request is left to a search, and whether it can be searched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from scalebench.matrix.request import AUTO, MAX, Axes, Request, RequestError

Search = Literal["micro_batch", "size", "batch"]
"""`--micro-batch auto`, `--size max` and `--batch best`."""
WORDS: dict[Search, str] = {"micro_batch": AUTO, "size": MAX}


def search_of(request: Request) -> Search | None:
    """Which search is asked for. Raises RequestError for more than one, or one that nothing could be found by."""
    found = [name for name, word in WORDS.items() if _holds(request, name, word)]
    if request.batch == "best":
        found.append("batch")
    _require_alone(request)
    if len(found) > 1:
        raise RequestError((found[1],), f"--{found[0].replace('_', '-')} is searched already; one thing at a time.")
    if found == ["batch"] and request.scaling not in (None, ("strong",)):
        raise RequestError(("batch",), "best is for one global batch. Use --scaling strong.")
    if found == ["micro_batch"] and "strong" in (request.scaling or ()) and not request.global_batch:
        raise RequestError(("micro_batch",), "strong scaling shares out a global batch. Add --global-batch N.")
    return found[0] if found else None


def micro_batch_of(point: Request) -> int | None:
    """The micro-batch to make a cell of, None for the size's own. A search for it begins at 1, and one for the size
    asks what fits at 1 unless told otherwise."""
    if point.micro_batch is None:
        return 1 if _holds(point, "size", MAX) else None
    return 1 if _holds(point, "micro_batch", AUTO) else int(point.micro_batch[0])


def _require_alone(request: Request) -> None:
    for name, word in WORDS.items():
        if _holds(request, name, word) and len(getattr(request, name)) > 1:
            raise RequestError((name,), f"{word} stands alone: what it finds takes its place. Leave the others out.")
        for key, part in _parts(request):
            if _holds(part, name, word):
                raise RequestError((*key, name), f"{word} holds for all cells or none. Say it in [run].")


def _parts(request: Request) -> Iterator[tuple[tuple[str, ...], Axes]]:
    for index, override in enumerate(request.override or ()):
        yield ("override", str(index)), override
        yield ("override", str(index), "where"), override.where
    for section in ("exclude", "include"):
        for index, part in enumerate(getattr(request, section) or ()):
            yield (section, str(index)), part


def _holds(axes: Axes, name: str, word: str) -> bool:
    return word in (getattr(axes, name) or ())
