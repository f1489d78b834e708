"""Whether an optional package is there and new enough, without importing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re


def unusable(package: str, minimum: tuple[int, ...], install: str | None = None) -> str | None:
    """Why `package` cannot be used and what to type, or None. `install` is what pip is asked for, if not `package`."""
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed: pip install {install or package}"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"a folder or file named {package} hides that package, or stands in for it: rename it, or install it"
    if tuple(map(int, re.findall(r"\d+", version)[: len(minimum)])) < minimum:
        wanted = ".".join(map(str, minimum))
        return f"{package} {version} is older than what is tested here: pip install -U '{package}>={wanted}'"
    return None
