"""Do Python, torch, CUDA, the driver, NCCL and DeepSpeed fit each other?"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from scalebench.doctor import sensors
from scalebench.doctor.finding import CannotTellError, Finding, note, ok, problem
from scalebench.doctor.interpreter import deepspeed_facts, torch_facts
from scalebench.doctor.packages import distribution_name

PYTHONS = ((3, 11), (3, 13))
OLDEST_TORCH = (2, 6)
OLDEST_DEEPSPEED = (0, 19, 8)
"""As the strategies have it; said again here since they cannot be imported without torch."""
SHADOWING = ("libnccl.so*", "libcudart.so*", "libcublas.so*", "libcudnn.so*", "libtorch*.so*")


def python() -> Iterator[Finding]:
    """Other versions of Python are not tested."""
    first, last = PYTHONS
    named = f"Python {sys.version.split()[0]} ({sys.executable})"
    if first <= sys.version_info[:2] <= last:
        yield ok(named)
    else:
        yield problem(named, "make an environment with Python 3.11, 3.12 or 3.13")


def torch() -> Iterator[Finding]:
    """Every strategy runs on torch; gloo and NCCL are built into it."""
    try:
        facts = torch_facts()
    except CannotTellError as error:
        yield problem(str(error), "pip install --force-reinstall 'torch>=2.6'")
        return
    named = f"torch {facts['version']}, CUDA {facts['cuda'] or 'none'}, NCCL {_dotted(facts['nccl'])}"
    if numbers(facts["version"]) < OLDEST_TORCH:
        yield problem(f"{named} is too old", "pip install 'torch>=2.6'")
    elif not facts["gloo"]:
        yield problem(f"{named} is built without gloo", "pip install --force-reinstall 'torch>=2.6'")
    else:
        yield ok(named)


def torch_and_gpus() -> Iterator[Finding]:
    """A torch built without CUDA, or for other GPUs, cannot use these: "no kernel image is available"."""
    facts = torch_facts()
    with sensors.gpus() as (nvml, gpus):
        if not facts["cuda"]:
            yield problem(
                f"{len(gpus)} GPU(s), but torch {facts['version']} is built without CUDA",
                "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128",
            )
            return
        for gpu in gpus:
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(gpu.handle)
            if runs_on(facts["architectures"], major, minor):
                yield ok(f"{gpu}: torch {facts['version']} has code for capability {major}.{minor}")
            else:
                yield problem(
                    f"{gpu}: torch {facts['version']} has no code for its capability {major}.{minor}",
                    "install a torch built for it: https://pytorch.org/get-started",
                )
    if not facts["cuda_works"]:
        yield problem("torch cannot start CUDA here", "see: python -c 'import torch; torch.cuda.init()'")


def runs_on(architectures: list[str], major: int, minor: int) -> bool:
    """Whether one of torch's architectures (`sm_90a`, `compute_80`) runs on this capability.

    Machine code runs on its own major version at the same minor or a later one, PTX on everything later.
    """
    for kind, digits in re.findall(r"(sm|compute)_(\d+)", " ".join(architectures)):
        built = (int(digits[:-1]), int(digits[-1]))
        if built <= (major, minor) and (kind == "compute" or built[0] == major):
            return True
    return False


def driver_and_cuda() -> Iterator[Finding]:
    """A driver older than torch's CUDA: "the NVIDIA driver on your system is too old"."""
    built = torch_facts()["cuda"]
    with sensors.gpus() as (nvml, _):
        number = nvml.nvmlSystemGetCudaDriverVersion()
    if not built:
        raise CannotTellError("torch is built without CUDA")
    driver = (number // 1000, number % 1000 // 10)
    said = f"the driver runs CUDA up to {_dotted(driver)}, torch is built for {built}"
    if driver[0] < numbers(built)[0]:
        yield problem(said, "update the driver, or install a torch built for an older CUDA")
    elif driver < numbers(built):
        yield note(f"{said}: works within one major version, but not what is compiled on the spot", "update the driver")
    else:
        yield ok(said)


def nccl() -> Iterator[Finding]:
    """Another NCCL than the one torch came with is a usual cause of "unhandled system error" and of hangs."""
    loaded = torch_facts()["nccl"]
    if loaded is None:
        raise CannotTellError("torch is built without NCCL")
    shipped = {found.version for found in distributions() if distribution_name(found).startswith("nvidia-nccl-cu")}
    if shipped and all(numbers(version)[:3] != tuple(loaded[:3]) for version in shipped):
        yield problem(
            f"torch loads NCCL {_dotted(loaded)}, beside it is installed {', '.join(sorted(shipped))}",
            "unset LD_LIBRARY_PATH LD_PRELOAD, or pip install --force-reinstall torch",
        )
    else:
        yield ok(f"NCCL {_dotted(loaded)}")


def library_path() -> Iterator[Finding]:
    """Libraries found through LD_LIBRARY_PATH or LD_PRELOAD are loaded instead of those that torch came with."""
    folders = [Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":") if entry]
    found = sorted({str(path) for folder in folders for pattern in SHADOWING for path in folder.glob(pattern)})
    preloaded = [
        name for name in re.split(r"[ :]+", os.environ.get("LD_PRELOAD", "")) if "nccl" in name or "cuda" in name
    ]
    if found or preloaded:
        yield note(f"in place of torch's own: {', '.join(found + preloaded)}", "unset LD_LIBRARY_PATH LD_PRELOAD")
    else:
        yield ok("nothing in place of torch's own")


def deepspeed() -> Iterator[Finding]:
    """Cells of deepspeed need a version whose results are right and which fits this torch."""
    if not any(distribution_name(found) == "deepspeed" for found in distributions()):
        raise CannotTellError("deepspeed is not installed")
    try:
        facts = deepspeed_facts()
    except CannotTellError as error:
        yield problem(str(error), "pip install --force-reinstall --no-deps deepspeed")
        return
    named = f"deepspeed {facts['version']}"
    if numbers(facts["version"]) < OLDEST_DEEPSPEED:
        yield problem(f"{named} is too old", f"pip install 'deepspeed>={_dotted(OLDEST_DEEPSPEED)}'")
        return
    yield ok(named)
    yield from _prebuilt(facts["prebuilt"], facts["built_for"].get("version", ""))


def _prebuilt(operators: list[str], built_for: str) -> Iterator[Finding]:
    """Extensions compiled at installation work with the torch they were compiled against alone."""
    torch = torch_facts()["version"]
    if operators and numbers(built_for)[:2] != numbers(torch)[:2]:
        yield problem(
            f"its extensions {', '.join(operators)} were compiled for torch {built_for}, here is {torch}",
            "pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir deepspeed",
        )


def numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def _dotted(version: tuple[int, ...] | list[int] | None) -> str:
    return ".".join(map(str, version)) if version else "none"


CHECKS = (python, torch, torch_and_gpus, driver_and_cuda, nccl, library_path, deepspeed)
