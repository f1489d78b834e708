"""Peak rates of GPUs by exact name and number format, from data sheets (peaks.toml): dense, never with sparsity."""

from __future__ import annotations

import functools
import tomllib
from importlib.resources import files
from typing import Any

TERA = 1e12
NUMBERS = ("fp32", "tf32", "fp16", "bf16")


def peak_flops(device_name: str | None, number: str) -> float | None:
    """FLOPs per second of one device in `fp32`, `tf32`, `fp16` or `bf16`; None when the table does not have it.

    The name must be exactly the driver's: variants that share the beginning of their names differ by up to a half.
    """
    entry = table().get(device_name or "", {})
    return entry[number] * TERA if number in entry else None


@functools.cache
def table() -> dict[str, dict[str, Any]]:
    """Every GPU by name: its TFLOP/s by number format, and the `source` of them."""
    entries = tomllib.loads(files(__package__).joinpath("peaks.toml").read_text(encoding="utf-8"))["gpu"]
    return {name: entry for entry in entries for name in entry["names"]}
