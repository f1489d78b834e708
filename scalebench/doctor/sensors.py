"""The GPUs as NVML shows them to checks: with the reason when it does not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scalebench.doctor.finding import CannotTellError
from scalebench.machine import visible_handles


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that runs started here would use; `number` is CUDA's."""

    number: int
    handle: Any
    name: str

    def __str__(self) -> str:
        return f"GPU {self.number} ({self.name})"


@contextlib.contextmanager
def library() -> Iterator[Any]:
    """pynvml, initialised. Raises ImportError, or pynvml's own errors."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


@contextlib.contextmanager
def gpus() -> Iterator[tuple[Any, list[Gpu]]]:
    """pynvml and the visible GPUs, one at least. Raises CannotTellError."""
    with contextlib.ExitStack() as stack:
        try:
            nvml = stack.enter_context(library())
            handles = visible_handles(nvml)
        except Exception as error:  # NVML has a class of its own for each code; a broken pynvml raises anything
            raise CannotTellError(f"no GPU can be asked: {type(error).__name__}: {error}") from error
        if not handles:
            raise CannotTellError("no GPU is visible here")
        yield nvml, [Gpu(number=i, handle=handle, name=_name(nvml, handle)) for i, handle in enumerate(handles)]


def _name(nvml: Any, handle: Any) -> str:
    try:
        return str(nvml.nvmlDeviceGetName(handle))
    except Exception:  # as above; a GPU without a name can still be asked for the rest
        return "name unknown"
