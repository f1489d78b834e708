"""The parameters in what a DeepSpeed engine has saved, put together by one process without the ranks."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import compat
from .deepspeed_step import SAVED
from .safe_reading import read_plain

CPU = torch.device("cpu")


def read_saved(folder: Path, like: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor that `like` names, one at a time: masters where there are any. Needs deepspeed and no ranks.

    ZeRO 1 and 2 are put together in main memory, ZeRO 3 one parameter at a time. Raises CodeFoundError.
    """
    compat.load_deepspeed(CPU)
    files = sorted((folder / SAVED).glob("*.pt"))
    zero = any("optim_states" in file.name for file in files)
    held: Any = None
    for file in files:
        held = read_plain(file, CPU, compat.saved_classes())  # what holds code is not let near DeepSpeed's own tool
    whole = _by_zero(folder) if zero else held["module"]
    for name in like:
        yield name, whole[name].contiguous()


def _by_zero(folder: Path) -> Mapping[str, Any]:
    """By DeepSpeed's own tool."""
    tool: Any = importlib.import_module("deepspeed.utils.zero_to_fp32")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        found: Mapping[str, Any] = tool.get_fp32_state_dict_from_zero_checkpoint(str(folder), SAVED, lazy_mode=True)
    return found
