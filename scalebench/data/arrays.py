"""Samples in .npy files, mapped into memory: `NAME.npy` alone, or a folder with `images.npy` or `latents.npy`, and
`labels.npy` beside it. Pickled objects are refused: reading them could run code.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalebench.data.cache import contents_sha256
from scalebench.data.names import DataName
from scalebench.data.samples import TensorSamples
from scalebench.errors import UserError

INTEGERS = ("uint8", "int8", "int16", "int32", "int64")
FLOATS = ("float16", "float32", "float64")
LABELS = "labels"
DTYPES = {"images": torch.uint8, "latents": torch.float32, LABELS: torch.int64}
"""Of columns, in a batch."""
STORED: dict[str, Sequence[str]] = {"images": ("uint8",), "latents": FLOATS, LABELS: INTEGERS}
"""The dtypes that their files may have."""


def open_arrays(name: DataName, column: str, shape: tuple[int, ...], num_classes: int | None) -> TensorSamples:
    """The samples of a .npy file, or of a folder with `column`.npy and labels.npy; without labels all are of class 0.

    Args:
        shape: of one sample, as the model takes it.

    Raises UserError for a missing file, one that is no array of numbers, a wrong shape or dtype, files of different
    lengths, and labels that the model does not have.
    """
    files = _files(Path(name.path), column)
    columns = {key: read_column(path, key, () if key == LABELS else shape) for key, path in files.items()}
    count = len(columns[column])
    labels = columns.setdefault(LABELS, torch.zeros(1, dtype=torch.int64).expand(count))
    if len(labels) != count:
        raise UserError(
            f"{files[column]} holds {count} samples, {files[LABELS]} {len(labels)} labels. Write both anew."
        )
    _require_known(labels, num_classes, name.path)
    return TensorSamples(
        name=str(name),
        sha256=contents_sha256(list(files.values())),
        columns=columns,
        dtypes={key: DTYPES[key] for key in columns},
    )


def read_column(path: Path, column: str, shape: tuple[int, ...]) -> Tensor:
    """The array in `path` as a tensor (N, *shape) of the same memory. Raises UserError when it is something else."""
    array, stored = read_array(path), STORED[column]
    if str(array.dtype) not in stored:
        raise UserError(f"{path} holds {array.dtype}, and {column} are {' or '.join(stored)}. Convert it.")
    if array.ndim != 1 + len(shape) or array.shape[1:] != shape:
        wanted = ", ".join(["N", *map(str, shape)])
        raise UserError(
            f"{path} has the shape {array.shape}, and the model takes ({wanted}). "
            "Set the workload's options to the data (scalebench list workloads), or give other data."
        )
    if not len(array):
        raise UserError(f"{path} holds no samples. Give another file.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it cannot be written to, which nobody does
        return torch.from_numpy(array)


def read_array(path: Path) -> NDArray[Any]:
    """The array of a .npy file, mapped. Raises UserError when it is none, or holds anything but numbers."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"cannot read the array {path}: {_said(error)}. Give a .npy file of numbers, written by numpy.save."
        ) from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is an archive of several arrays. Give a .npy file, written by numpy.save.")
    return array


def _said(error: Exception) -> str:
    """Why, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = " ".join(str(error).split()).rstrip(".")
    if "Python objects" in said or "Object arrays" in said:
        return "it holds pickled Python objects, which could run code"
    return "it is no .npy file" if "pickle" in said else said


def _files(path: Path, column: str) -> dict[str, Path]:
    """Where each column is."""
    if path.is_file():
        return {column: path}
    found = {key: path / f"{key}.npy" for key in (column, LABELS) if (path / f"{key}.npy").exists()}
    if column not in found:
        raise UserError(f"{path} has no {column}.npy. Give a .npy file, or a folder with {column}.npy and labels.npy.")
    return found


def _require_known(labels: Tensor, num_classes: int | None, source: str) -> None:
    low, high = int(labels.min()), int(labels.max())
    if num_classes is not None and (low < 0 or high >= num_classes):
        raise UserError(
            f"the labels of {source} are {low} to {high}, and the model knows 0 to {num_classes - 1}. "
            f"Give --set workload.num_classes={high + 1}, or other labels."
        )
