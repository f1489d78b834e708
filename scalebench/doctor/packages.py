"""Are the packages that runs need here, whole, and the ones they seem to be? Imports none of them."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
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
OPTIONAL = {
    "deepspeed": "deepspeed",
    "pynvml": "nvidia-ml-py",
    "lightning": "lightning",
    "accelerate": "accelerate",
}
"""Import name to distribution; what is optional costs its own cells or figures alone."""
COSTS = {
    "deepspeed": "cells of deepspeed are unsupported",
    "pynvml": "GPUs are not found, and no energy, clocks or temperatures are read",
    "lightning": "cells of lightning_* are unsupported",
    "accelerate": "cells of accelerate_* are unsupported",
}


def foreign_scalebench() -> Iterator[Finding]:
    """The package index has an unrelated distribution of the same import name; whichever comes first is imported."""
    foreign = [found for found in distributions() if distribution_name(found) == "scalebench"]
    if foreign:
        yield problem(
            f"the distribution scalebench {foreign[0].version} is installed, which is not this one ({OURS})",
            f"pip uninstall scalebench && pip install --force-reinstall --no-deps {OURS}",
        )
    else:
        yield ok(f"scalebench {scalebench.__version__} from {Path(scalebench.__file__).parent}")


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
    names = (*REQUIRED, *OPTIONAL, "scalebench")
    modules = [Path.cwd() / f"{name}.py" for name in names]
    packages = [Path.cwd() / name for name in names if (Path.cwd() / name / "__init__.py").exists()]
    hidden = [path for path in (*modules, *packages) if path.exists() and not _is_ours(path)]
    for path in hidden:
        yield problem(f"{path} hides the library of that name", f"mv {path} {path.with_name('my_' + path.name)}")
    if not hidden:
        yield ok(f"nothing in {Path.cwd()} hides a library")


def twice_installed() -> Iterator[Finding]:
    """Of two copies the first on the path is imported; two in one folder are what an interrupted upgrade leaves."""
    known = {*REQUIRED.values(), *OPTIONAL.values()}
    folders: dict[str, list[str]] = defaultdict(list)
    for name, folder, _ in sorted({_copy(found) for found in distributions() if distribution_name(found) in known}):
        folders[name].append(folder)
    doubled = {name: where for name, where in folders.items() if len(where) > 1}
    for name, where in doubled.items():
        finding = note if len(set(where)) == len(where) else problem
        yield finding(
            f"{name}: {len(where)} times, in {', '.join(where)}",
            f"pip uninstall {name}, till it is gone; pip install {name}",
        )
    if not doubled:
        yield ok("each once")


def deprecated_pynvml() -> Iterator[Finding]:
    """The distribution pynvml is an old wrapper under the name of nvidia-ml-py's module: one overwrites the other."""
    if any(distribution_name(found) == "pynvml" for found in distributions()):
        yield note("pynvml is installed", "pip uninstall pynvml && pip install --force-reinstall nvidia-ml-py")
    else:
        yield ok("not installed")


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _is_ours(path: Path) -> bool:
    return path.resolve() == Path(scalebench.__file__).parent.resolve()


def _copy(found: Distribution) -> tuple[str, str, str]:
    """Name, folder and version: a folder that is twice on the path has still one copy."""
    return distribution_name(found), str(found.locate_file("")), found.version


def distribution_name(found: Distribution) -> str:
    """As the index normalises it; empty for a damaged one."""
    try:
        return str(found.metadata["Name"] or "").lower().replace("_", "-")
    except Exception:  # metadata cut off in the middle
        return ""


CHECKS = (foreign_scalebench, needed, optional, shadowed, twice_installed, deprecated_pynvml)
