"""Import it before anything else: from then on every attempt of this process to start CUDA is noted, and refused.

A torch without CUDA seems to have it: whatever only looks (through NVML) finds what NVML shows, whatever starts the
runtime, which may not happen before a fork, is caught.
"""

from __future__ import annotations

import traceback
from typing import Any, NoReturn

import torch

STARTING = ("_cuda_init", "_cuda_getDeviceCount", "_cuda_getDevice", "_cuda_setDevice")
MERELY_THERE = ("_cuda_getCurrentRawStream",)
"""What modules of torch import where torch was built with CUDA."""

attempts: list[list[str]] = []
"""Where each attempt came from, the outermost frame first."""


def spring(*arguments: Any) -> NoReturn:
    """What stands for each function that would start CUDA."""
    attempts.append([f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[:-1]])
    raise RuntimeError("CUDA would have been started before the fork")


for name in (*STARTING, *MERELY_THERE):
    setattr(torch._C, name, spring)

vars(torch.cuda)["_cudart"] = object()  # without it torch would say that it is broken before it tries
