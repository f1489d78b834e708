"""Reading what a training saved without running anything in it.

Saved state is pickled, and a pickle may call any function. These readers make nothing but tensors, plain values and the
few classes that torch.distributed.checkpoint and DeepSpeed describe tensors with; whatever else a file asks for is
told, and not done.
"""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

METADATA = "torch.distributed.checkpoint.metadata"
DESCRIBING = {
    METADATA: {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}  # fmt: skip
"""All that a description of stored tensors is made of, by module."""


class CodeFoundError(RuntimeError):
    """A file that would run code, were it read as Python objects; the message says which."""


class DescriptionReader(pickle.Unpickler):
    """Makes objects of the classes in `DESCRIBING` alone. Raises CodeFoundError for any other."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in DESCRIBING.get(module, ()):
            raise CodeFoundError(f"{module}.{name}")
        return super().find_class(module, name)


class SafeReader(FileSystemReader):
    """torch's reader of a saved folder, which reads the folder's description at once, and no code in it.

    Raises CodeFoundError. Later, torch would take that for a description that is missing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with (path / ".metadata").open("rb") as file:
            self._description: Metadata = DescriptionReader(file).load()
        self._description.storage_meta = self._description.storage_meta or StorageMeta()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._description


class SafePlanner(DefaultLoadPlanner):
    """torch's planner, which reads objects among the tensors only when they are plain values."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        read_plain(value)
        value.seek(0)
        super().load_bytes(read_item, value)


def read_plain(file: Path | IO[bytes], map_location: Any = None, classes: Sequence[type] = ()) -> Any:
    """What torch.save has written, made of tensors, plain values and objects of `classes` alone.

    Raises CodeFoundError when it holds anything else.
    """
    try:
        with torch.serialization.safe_globals(list(classes)):
            return torch.load(file, map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CodeFoundError(", ".join(_asked_for(file, classes)) or str(error).splitlines()[0]) from error


def _asked_for(file: Path | IO[bytes], classes: Sequence[type]) -> Iterator[str]:
    """What a file of torch's would call."""
    if not isinstance(file, Path):
        file.seek(0)
    known = {f"{one.__module__}.{one.__qualname__}" for one in classes}
    with contextlib.suppress(Exception):  # of a file that is no archive of torch's: then no more is known
        yield from (name for name in torch.serialization.get_unsafe_globals_in_checkpoint(file) if name not in known)
