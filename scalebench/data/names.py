"""What data are called: `kind`, `kind:path` or `kind:path?option=value&...`, taken apart and checked without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scalebench.errors import UserError, unknown_name

SYNTHETIC = "synthetic"
STDLIB = "text:stdlib"
TEXT_READS = ("text", SYNTHETIC)
DEFAULT_EXTENSIONS = ("bmp", "jpeg", "jpg", "png", "tif", "tiff", "webp")


def read_extensions(text: str) -> str:
    """Names of file formats, sorted, in lower case, without dots. Raises ValueError, as every reader here."""
    names = sorted({part.strip().lstrip(".").lower() for part in text.split(",")})
    if not all(name.isalnum() for name in names):
        raise ValueError("extensions separated by commas, such as png,jpg")
    return ",".join(names)


def read_switch(text: str) -> str | None:
    """`true`; None for `false`, the default."""
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return "true" if text == "true" else None


def read_part(text: str) -> str:
    """`train` or `val`."""
    if text not in ("train", "val"):
        raise ValueError("train or val")
    return text


FILES_OPTIONS: Mapping[str, Callable[[str], str | None]] = {"ext": read_extensions, "skip_corrupt": read_switch}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of data: how it is given (for people), what its path must be (`folder`, `path`, or none), its options."""

    form: str
    path: str | None = None
    options: Mapping[str, Callable[[str], str | None]] = field(default_factory=dict)


KINDS: dict[str, Kind] = {
    "text": Kind(form="a text file or a folder of them, 'stdlib' for Python's own sources", path="path"),
    "images": Kind(form="images:FOLDER of image files", path="folder", options=FILES_OPTIONS),
    "pairs": Kind(form="pairs:FOLDER that holds images/ and masks/", path="folder", options=FILES_OPTIONS),
    "arrays": Kind(form="arrays:FILE.npy or a folder of such", path="path"),
    "digits": Kind(form="'digits' for scikit-learn's images of digits", options={"part": read_part}),
    SYNTHETIC: Kind(form="'synthetic'"),
}


@dataclass(frozen=True, kw_only=True)
class DataName:
    """A resolved name; `str` of it is what a spec stores. `path` is absolute, or `stdlib`; options not at default."""

    kind: str
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        typed = "&".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        return self.kind + (f":{self.path}" if self.path else "") + (f"?{typed}" if typed else "")

    @property
    def extensions(self) -> tuple[str, ...]:
        """Of the files that are images."""
        return tuple(self.options["ext"].split(",")) if "ext" in self.options else DEFAULT_EXTENSIONS

    @property
    def skip_corrupt(self) -> bool:
        return "skip_corrupt" in self.options


def help_of(reads: Sequence[str]) -> str:
    """The ways to give data of these kinds, for a sentence: `images:FOLDER of image files, or 'synthetic'`."""
    *most, last = (KINDS[kind].form for kind in reads)
    return f"{', '.join(most)}, or {last}" if most else last


DATA_HELP = help_of(TEXT_READS)


def resolve_name(given: str | None = None, reads: Sequence[str] = tuple(KINDS)) -> str:
    """What a person calls the data, as a spec stores it: absolute paths, options in order, what is default left out.

    None is `text:stdlib`, and a path alone is of the first of the kinds in `reads` that has paths. Already resolved
    names stay as they are. A folder called `stdlib` or `digits` is given as `./stdlib`. Raises UserError for a kind
    that is not in `reads`, an option that does not exist, and a path that does not exist or should be a folder.
    """
    return str(_read(STDLIB if given is None else given, reads))


def parse(data: str) -> DataName:
    """A resolved name taken apart. Raises UserError as `resolve_name`, since the data may be gone by now."""
    return _read(data, tuple(KINDS))


def _read(given: str, reads: Sequence[str]) -> DataName:
    kind, rest = _kind(given, reads)
    if kind not in reads:
        raise UserError(f"data '{given}' are of a kind that this workload does not read. Give {help_of(reads)}.")
    path, options = _parted(rest) if KINDS[kind].options else (rest, {})
    if path or KINDS[kind].path:
        path = path if (kind, path) == ("text", "stdlib") else _existing(given, kind, path, reads)
    return DataName(kind=kind, path=path, options=_checked(given, kind, options))


def _kind(given: str, reads: Sequence[str]) -> tuple[str, str]:
    """The kind that is meant, and what follows its name."""
    if given == "stdlib":
        return "text", given
    head, colon, rest = given.partition(":")
    if colon and head in KINDS and KINDS[head].path:
        return head, rest
    word = given.partition("?")[0]
    if word in KINDS and not KINDS[word].path:
        return word, given.removeprefix(word)
    return next((kind for kind in reads if KINDS[kind].path), "text"), given


def _parted(rest: str) -> tuple[str, dict[str, str]]:
    """Path and options. What follows a `?` without any `=` belongs to the path."""
    path, _, typed = rest.rpartition("?")
    if "=" not in typed or (not path and not rest.startswith("?")):
        return rest, {}
    return path, {name: value for name, _, value in (part.partition("=") for part in typed.split("&"))}


def _existing(given: str, kind: str, path: str, reads: Sequence[str]) -> str:
    found = "" if "\0" in path else os.path.expanduser(path)
    if not os.path.exists(found):  # False also for unknown users, circles of links and what no path can be
        raise UserError(f"data '{given}' does not exist. Give {help_of(reads)}.")
    if KINDS[kind].path == "folder" and not os.path.isdir(found):
        raise UserError(f"data '{given}' is not a folder. Give {KINDS[kind].form}.")
    return os.path.realpath(found)


def _checked(given: str, kind: str, options: Mapping[str, str]) -> dict[str, str]:
    """The values of options as they are stored; those at their defaults are left out."""
    readers, found = KINDS[kind].options, {}
    for name, text in options.items():
        if name not in readers:
            raise UserError(f"in data '{given}': {unknown_name(f'option of {kind}', name, readers)}")
        try:
            value = readers[name](text)
        except ValueError as error:
            raise UserError(f"in data '{given}': {name} is '{text}'. Give {error}.") from None
        if value is not None:
            found[name] = value
    return found
