"""Are there GPUs, and would a run see them and be able to use them?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from scalebench.doctor import sensors
from scalebench.doctor.finding import CannotTellError, Finding, note, ok, problem, unknown
from scalebench.machine import visible_handles

NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASS = "0x03"
COMPUTE_PROHIBITED = 2
COMPUTE_EXCLUSIVE = 3
GIB = 1 << 30


def driver(pci: Path = Path("/sys/bus/pci/devices")) -> Iterator[Finding]:
    """Without NVIDIA's driver runs use CPU processes, whatever GPUs the machine has."""
    boards = _boards(pci)
    try:
        with sensors.library() as nvml:
            yield ok(f"driver {nvml.nvmlSystemGetDriverVersion()}, {nvml.nvmlDeviceGetCount()} GPU(s)")
    except ImportError as error:
        yield unknown(f"pynvml cannot be imported ({error})", "pip install nvidia-ml-py")
    except Exception as error:  # NVML has a class of its own for each code
        said = f"{type(error).__name__}: {error}"
        if type(error).__name__ == "NVMLError_LibRmVersionMismatch":
            yield problem(f"kernel driver and library are of different versions ({said})", "sudo reboot")
        elif boards:
            yield problem(
                f"{boards} NVIDIA GPU(s) on the PCI bus, but no working driver ({said})",
                "install NVIDIA's driver (nvidia-smi must work); in a container: docker run --gpus all",
            )
        else:
            yield note(f"no NVIDIA GPU: runs use CPU processes over gloo ({said})")


def _boards(pci: Path) -> int:
    """NVIDIA's display and compute devices on the PCI bus; 0 where it cannot be read."""
    return sum(
        _read(device / "vendor") == NVIDIA_VENDOR and _read(device / "class").startswith(DISPLAY_CLASS)
        for device in pci.glob("*")
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def visible() -> Iterator[Finding]:
    """A run uses the GPUs that CUDA_VISIBLE_DEVICES leaves visible, and none after its first invalid entry."""
    selection = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        with sensors.library() as nvml:
            there, seen = nvml.nvmlDeviceGetCount(), len(visible_handles(nvml))
    except Exception as error:
        raise CannotTellError(f"no GPU can be asked: {type(error).__name__}: {error}") from error
    if selection is None:
        yield ok(f"all {there} GPU(s), CUDA_VISIBLE_DEVICES is not set")
        return
    asked = [entry for entry in selection.split(",") if entry.strip() not in ("", "-1")]
    said = f"CUDA_VISIBLE_DEVICES={selection!r} leaves {seen} of {there} GPU(s) visible"
    if seen < len(asked):
        yield problem(f"{said}: not every entry is a GPU here", "unset CUDA_VISIBLE_DEVICES, or see: nvidia-smi -L")
    elif seen < there:
        yield note(said, "unset CUDA_VISIBLE_DEVICES to use them all")
    else:
        yield ok(said)


def models() -> Iterator[Finding]:
    """All ranks go at the pace of the slowest GPU, so that scaling over different models tells nothing."""
    with sensors.gpus() as (nvml, gpus):
        sizes = {gpu.number: nvml.nvmlDeviceGetMemoryInfo(gpu.handle).total for gpu in gpus}
    kinds = sorted({f"{gpu.name}, {sizes[gpu.number] / GIB:.0f} GiB" for gpu in gpus})
    if len(kinds) > 1:
        yield note(f"different models: {'; '.join(kinds)}", "export CUDA_VISIBLE_DEVICES=... with those of one model")
    else:
        yield ok(f"{len(gpus)} x {kinds[0]}")


def compute_mode() -> Iterator[Finding]:
    """A GPU whose compute mode is prohibited or exclusive refuses processes: "all CUDA-capable devices are busy"."""
    with sensors.gpus() as (nvml, gpus):
        for gpu in gpus:
            mode = nvml.nvmlDeviceGetComputeMode(gpu.handle)
            remedy = f"sudo nvidia-smi -i {gpu.number} -c DEFAULT"
            if mode == COMPUTE_PROHIBITED:
                yield problem(f"{gpu}: computing is prohibited", remedy)
            elif mode == COMPUTE_EXCLUSIVE:
                yield note(f"{gpu}: one process at a time", remedy)
            else:
                yield ok(f"{gpu}: default")


def mig() -> Iterator[Finding]:
    """Of a GPU split by MIG a process sees one part alone, and NCCL joins no parts: "duplicate GPU detected"."""
    with sensors.gpus() as (nvml, gpus):
        for gpu in gpus:
            try:
                split = nvml.nvmlDeviceGetMigMode(gpu.handle)[0]
            except nvml.NVMLError_NotSupported:
                split = 0
            yield problem(f"{gpu}: split", f"sudo nvidia-smi -i {gpu.number} -mig 0") if split else ok(f"{gpu}: whole")


def memory_errors() -> Iterator[Finding]:
    """Uncorrected memory errors end runs with "uncorrectable ECC error encountered"."""
    with sensors.gpus() as (nvml, gpus):
        for gpu in gpus:
            try:
                errors = nvml.nvmlDeviceGetTotalEccErrors(
                    gpu.handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                )
            except nvml.NVMLError_NotSupported:
                yield ok(f"{gpu}: its memory has no error correction, nothing is counted")
                continue
            remedy = f"sudo nvidia-smi -i {gpu.number} --gpu-reset, and replace it if they come back"
            yield problem(f"{gpu}: {errors} since boot", remedy) if errors else ok(f"{gpu}: none since boot")


CHECKS = (driver, visible, models, compute_mode, mig, memory_errors)
