"""A file of named tensors (safetensors), written one tensor at a time: nobody has to hold the whole model.

Eight bytes say how long the header is; the header, in JSON, says of each tensor its dtype, its shape and where it is;
then the tensors follow without gaps (github.com/huggingface/safetensors, Format).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
ALIGNMENT_BYTES = 8


def write_tensors(file: Path, like: Mapping[str, Tensor], values: Iterable[tuple[str, Tensor]]) -> None:
    """Write `values` by name, in any order; `like` has, perhaps on meta, a tensor of the dtype and shape of each.

    Holds one value at a time. Raises ValueError unless `values` are those of `like`, and OSError.
    """
    header, starts = _laid_out(like)
    left = dict.fromkeys(like)
    with file.open("wb") as opened:
        opened.write(header)
        for name, value in values:
            if name not in left or value.shape != like[name].shape:
                raise ValueError(f"{name} {tuple(value.shape)} is not what was to be written")
            del left[name]
            opened.seek(len(header) + starts[name])
            opened.write(_bytes(value.detach().to("cpu", like[name].dtype)))
    if left:
        raise ValueError(f"{', '.join(left)}: there was nothing to be written")


def _laid_out(like: Mapping[str, Tensor]) -> tuple[bytes, dict[str, int]]:
    """The file's beginning, and where each tensor starts after it: wide elements first, so that each is aligned."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, end = dict[str, int](), 0
    for name, tensor in sorted(like.items(), key=lambda item: -item[1].element_size()):
        starts[name], end = end, end + tensor.numel() * tensor.element_size()
        described[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [starts[name], end],
        }
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    return struct.pack("<Q", len(text)) + text, starts


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
