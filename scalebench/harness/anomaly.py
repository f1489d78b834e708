"""Anomaly detection, told to the end: which line of a forward pass a nan of the backward pass belongs to."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

FORWARD = "Traceback of forward call that caused the error"
"""In the warning that comes with autograd's error, which names the operation alone."""
FRAME = re.compile(r'File "(.+?)", line (\d+), in (\S+)')


@contextlib.contextmanager
def placed_anomalies(detected: bool) -> Iterator[None]:
    """Inside, where anomalies are `detected`, an error that one raises says where the operation was called forward."""
    if not detected:
        yield
        return
    said, show = list[str](), warnings.showwarning

    def kept(message: Warning | str, *where: Any, **more: Any) -> None:
        said.append(str(message))
        show(message, *where, **more)

    warnings.showwarning = kept
    try:
        yield
    except RuntimeError as error:
        place = forward_place(said)
        if place:
            raise RuntimeError(f"{error} It was called at {place}.") from error
        raise
    finally:
        warnings.showwarning = show


def forward_place(said: list[str]) -> str | None:
    """`net.py, line 12, in forward`: the innermost frame that is none of torch's; None where no warning has one."""
    told = [text for text in said if FORWARD in text]
    frames = FRAME.findall(told[-1]) if told else []
    own = [frame for frame in frames if "/torch/" not in frame[0]] or frames
    return "{}, line {}, in {}".format(*own[-1]) if own else None
