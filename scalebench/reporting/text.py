"""How figures are written for people: significant digits, units, intervals, and n/a for the unknown."""

from __future__ import annotations

import math
from collections.abc import Callable

from scalebench.stats.intervals import USELESS_WIDTH, Estimate

UNKNOWN = "n/a"
TOO_WIDE = f"[interval wider than {USELESS_WIDTH:g}-fold]"
Show = Callable[[float], str]

_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def figure(value: float, digits: int = 4) -> str:
    """`value` to `digits` significant digits, never with an exponent: 12345.6 is `12,350`, 0.012345 is `0.01235`."""
    if value == 0:
        return "0"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{float(f'{mantissa}e{power}'):,.{max(0, digits - 1 - int(power))}f}"


def times(value: float) -> str:
    """A ratio: `1.83×`."""
    return f"{figure(value, 3)}×"


def percent(value: float) -> str:
    """A share: 0.9134 is `91.3%`."""
    return f"{100 * value:.1f}%"


def change(ratio: float) -> str:
    """A ratio as a change: 1.081 is `+8.1%`, 0.97 is `-3.0%`; finer below a tenth of a percent."""
    digits = 1 if abs(ratio - 1) >= 1e-3 else 2
    return f"{100 * (ratio - 1):+.{digits}f}%"


def milliseconds(seconds: float) -> str:
    """Seconds as a bare number of milliseconds."""
    return figure(1e3 * seconds)


def size(value: float) -> str:
    """Bytes in binary units: `12.3 MiB`."""
    unit, scale = binary_unit(value)
    return f"{figure(value / scale, 3)} {unit}"


def binary_unit(value: float) -> tuple[str, int]:
    """The unit that suits `value` bytes, and how many bytes it is."""
    power = min(len(_BINARY_UNITS) - 1, int(math.log(value, 1024))) if value >= 1 else 0
    return _BINARY_UNITS[power], 1024**power


def with_interval(estimate: Estimate | None, show: Show = figure) -> str:
    """`value [low – high]`; within-run intervals are marked, useless ones are called so, None is n/a."""
    if estimate is None:
        return UNKNOWN
    if estimate.low is None or estimate.high is None:
        return show(estimate.value)
    interval = f"[{show(estimate.low)} – {show(estimate.high)}]" if estimate.bounded else TOO_WIDE
    return f"{show(estimate.value)} {interval}" + (" within run" if estimate.within_run else "")


def known(value: float | None, show: Show = figure) -> str:
    """`value` shown, or n/a."""
    return UNKNOWN if value is None else show(value)


def plural(count: int, word: str) -> str:
    """`1 process`, `2 processes`."""
    if count == 1:
        return f"{count} {word}"
    return f"{count} {word}es" if word.endswith("s") else f"{count} {word}s"


def listing(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
