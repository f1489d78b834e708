"""Are the packages that runs need here, whole, and the ones they seem to be? Imports none of them."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

import scalebench
from scalebench.doctor.finding import Finding, note, ok, problem

OURS = "scalebench-suite"
REQUIRED = {
    "torch": "torch",
    "pandas": "pandas",
    "matplotlib": "matplotlib",
    "pydantic": "pydantic",
    "click": "click",
    "rich": "rich",
    "numpy": "numpy",
    "scipy": "scipy",
    "psutil": "psutil",
}
OPTIONAL = {"deepspeed": "deepspeed", "pynvml": "nvidia-ml-py"}
"""Import name to distribution; what is optional costs its own cells or figures alone."""
COSTS = {
    "deepspeed": "cells of deepspeed are unsupported",
    "pynvml": "GPUs are not found, and no energy, clocks or temperatures are read",
}


def foreign_scalebench() -> Iterator[Finding]:
    """The package index has an unrelated distribution of the same import name; whichever comes first is imported."""
    foreign = [found for found in distributions() if _name(found) == "scalebench"]
    if foreign:
        yield problem(
            f"the distribution scalebench {foreign[0].version} is installed, which is not this one ({OURS})",
            f"pip uninstall scalebench && pip install --force-reinstall --no-deps {OURS}",
        )
    spec = importlib.util.find_spec("scalebench")
    here = Path(scalebench.__file__).parent
    if not foreign:
        yield ok(
            f"scalebench {scalebench.__version__} from {Path(spec.origin).parent if spec and spec.origin else here}"
        )


def needed() -> Iterator[Finding]:
    """Without one of these the command, its reports or its cells fail."""
    missing = {module: name for module, name in REQUIRED.items() if not _importable(module)}
    for name in missing.values():
        yield problem(f"{name} is not installed", f"pip install {name}")
    if not missing:
        yield ok(f"{', '.join(REQUIRED.values())} are installed")


def optional() -> Iterator[Finding]:
    """What is missing here costs its own cells or figures alone."""
    for module, name in OPTIONAL.items():
        if _importable(module):
            yield ok(f"{name} is installed")
        else:
            yield note(f"{name} is not installed: {COSTS[module]}", f"pip install {name}")


def shadowed() -> Iterator[Finding]:
    """A file or folder of your own with a library's name is imported instead of it, with puzzling errors."""
    hidden = [
        path
        for module in (*REQUIRED, *OPTIONAL, "scalebench")
        for path in (Path.cwd() / f"{module}.py", Path.cwd() / module / "__init__.py")
        if path.exists() and not _is_ours(path)
    ]
    for path in hidden:
        yield problem(
            f"{path} hides the library of that name", f"rename it: mv {path} {path.with_name('my_' + path.name)}"
        )
    if not hidden:
        yield ok(f"nothing in {Path.cwd()} hides a library")


def twice_installed() -> Iterator[Finding]:
    """An interrupted upgrade leaves two copies of a package's metadata: versions shown need not be those used."""
    copies = Counter(_name(found) for found in {str(_folder(found)): found for found in distributions()}.values())
    doubled = sorted(
        name for name, count in copies.items() if count > 1 and name in {*REQUIRED.values(), *OPTIONAL.values()}
    )
    for name in doubled:
        yield problem(f"{name} is installed {copies[name]} times on this path", f"pip install --force-reinstall {name}")
    if not doubled:
        yield ok("each once")


def deprecated_pynvml() -> Iterator[Finding]:
    """The distribution pynvml is an old wrapper under the name of nvidia-ml-py's module: one overwrites the other."""
    if any(_name(found) == "pynvml" for found in distributions()):
        yield note("pynvml is installed", "pip uninstall pynvml && pip install --force-reinstall nvidia-ml-py")
    else:
        yield ok("not installed")


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _is_ours(path: Path) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(Path(scalebench.__file__).parent))


def _name(found: Distribution) -> str:
    """As the index normalises it; empty for a damaged one."""
    try:
        return str(found.metadata["Name"] or "").lower().replace("_", "-")
    except Exception:  # metadata cut off in the middle
        return ""


def _folder(found: Distribution) -> object:
    return getattr(found, "_path", id(found))


CHECKS = (foreign_scalebench, needed, optional, shadowed, twice_installed, deprecated_pynvml)
