"""The environment a session was measured in: hardware, versions, source state and the variables that matter."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scalebench.machine import nvml, visible_handles

VARIABLE_PREFIXES = (
    "NCCL_",
    "CUDA_",
    "TORCH",
    "PYTORCH_",
    "OMP_",
    "MKL_",
    "KMP_",
    "MALLOC_",
    "GOMP_",
    "GLOO_",
    "DS_",
    "DEEPSPEED_",
)
PACKAGES = ("torch", "deepspeed", "triton", "transformers", "lightning", "accelerate", "numpy")

MACHINE_FACTS = ("cpu_model", "cores", "gpus", "driver", "cuda", "nccl", "torch", "deepspeed", "python")
"""What must be the same before two figures are pooled or compared. Host names are not: containers change them."""

DEBUG_VARIABLES = {
    "NCCL_DEBUG": "INFO",
    "CUDA_LAUNCH_BLOCKING": "1",
    "TORCH_DISTRIBUTED_DEBUG": "INFO",  # DETAIL crashes DDP's constructor over gloo (torch 2.13)
}
"""What `--debug` sets; each of them slows a run down, so that no record made under one is comparable."""


def collect() -> dict[str, object]:
    """Facts about this host and this source tree, with None for what cannot be known. Initialises no device."""
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu_model": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_bytes": _memory_bytes(),
        **_gpu_facts(),
        **{package: _version(package) for package in PACKAGES},
        **_torch_facts(),
        **_source_state(),
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLE_PREFIXES)},
    }


def machine_facts(environment: Mapping[str, object]) -> dict[str, object]:
    """Of `environment` what a speed depends on; `gpus` are the kinds, not how many are visible."""
    facts = {name: environment.get(name) for name in MACHINE_FACTS}
    gpus = facts["gpus"]
    return facts | {"gpus": sorted({str(gpu) for gpu in gpus}) if isinstance(gpus, list) else gpus}


def debug_variables_set() -> list[str]:
    """The variables in this process's environment that make its records not comparable, as `NAME=value`."""
    harmless = {
        "NCCL_DEBUG": {"WARN", "VERSION", ""},
        "CUDA_LAUNCH_BLOCKING": {"0", ""},
        "TORCH_DISTRIBUTED_DEBUG": {"OFF", ""},
    }
    return [
        f"{name}={os.environ[name]}"
        for name in DEBUG_VARIABLES
        if name in os.environ and os.environ[name].upper() not in harmless[name]
    ]


def _cpu_model() -> str | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _memory_bytes() -> int | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _version(package: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return None


def _torch_facts() -> dict[str, object]:
    import torch

    nccl = None
    if torch.version.cuda and torch.distributed.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "nccl": nccl}


def _gpu_facts() -> dict[str, object]:
    """What NVML says of the visible GPUs, each fact on its own: one that a broken driver cannot tell is None."""
    with nvml() as library:
        if library is None:
            return {"gpus": [], "driver": None, "topology": None}
        return {
            "gpus": _or_none(lambda: [_text(library.nvmlDeviceGetName(gpu)) for gpu in visible_handles(library)]),
            "driver": _or_none(lambda: _text(library.nvmlSystemGetDriverVersion())),
            "topology": _or_none(lambda: _topology(library, visible_handles(library))),
        }


def _topology(library: Any, handles: list[Any]) -> list[list[int | None]]:
    """NVML's nearest common ancestor of each pair of GPUs (0 same board .. 50 across sockets); None on the diagonal."""
    return [
        [None if i == j else int(library.nvmlDeviceGetTopologyCommonAncestor(a, b)) for j, b in enumerate(handles)]
        for i, a in enumerate(handles)
    ]


def _or_none(ask: Callable[[], object]) -> object:
    with contextlib.suppress(Exception):  # NVML has a class of its own for each error code
        return ask()
    return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _source_state() -> dict[str, object]:
    """Version of scalebench and, in a checkout, its commit and whether tracked files differ from it."""
    import scalebench

    folder = Path(scalebench.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "scalebench": scalebench.__version__,
        "commit": commit,
        "dirty": None if status is None else bool(status),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()
    return None
