"""Latency and bandwidth from times over message sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True, kw_only=True)
class Line:
    """t(m) = `latency_seconds` + m / `bytes_per_second`; the latter None where time did not grow with m.

    `rms_error` and `largest_error` are relative: (fitted - measured) / measured over the sizes.
    """

    latency_seconds: float
    bytes_per_second: float | None
    rms_error: float
    largest_error: float

    def seconds(self, size: float) -> float:
        """Fitted time of a message of `size` bytes."""
        return self.latency_seconds + (size / self.bytes_per_second if self.bytes_per_second else 0.0)


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> Line:
    """Fit Hockney's model of a message, t = alpha + m / beta (Parallel Computing 20, 1994), by least squares.

    Errors are taken relative to the measured times, or large messages, thousands of times slower, would settle the
    latency alone; neither term may be negative (Lawson and Hanson 1974, non-negative least squares). `sizes` in bytes
    and `seconds`, both of shape (messages,), messages >= 2 of different sizes.
    """
    measured = np.asarray(seconds, dtype=float)
    terms = np.stack([np.ones(len(measured)), np.asarray(sizes, dtype=float)], axis=1) / measured[:, None]
    scale = np.abs(terms).max(axis=0)  # bytes and ones differ by many powers of ten
    found, _ = nnls(terms / scale, np.ones(len(measured)))
    latency, per_byte = found / scale
    errors = terms @ np.array([latency, per_byte]) - 1
    return Line(
        latency_seconds=float(latency),
        bytes_per_second=1 / float(per_byte) if per_byte > 0 else None,
        rms_error=float(np.sqrt(np.mean(errors**2))),
        largest_error=float(np.abs(errors).max()),
    )
