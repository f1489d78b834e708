"""Figures of the machine while it trains: its CPUs, and its GPUs by the sensors that runs are measured with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import psutil

from scalebench.machine import nvml
from scalebench.meters.device import Sensor, gpu_sensors

NO_FIGURES = ("throttle_mask", "processes")


@contextlib.contextmanager
def system_figures() -> Iterator[Callable[[], dict[str, float]]]:
    """While inside, a function of what the machine's sensors say now; the CPUs' share is since it was last called."""
    psutil.cpu_percent()
    with nvml() as library:
        yield partial(_read, gpu_sensors(library))


def _read(gpus: Sequence[Sensor]) -> dict[str, float]:
    found = {"system/cpu_percent": psutil.cpu_percent()}
    for number, gpu in enumerate(gpus):
        for quantity, reader in gpu.readers.items():
            if quantity not in NO_FIGURES:
                with contextlib.suppress(Exception):  # a GPU that does not know, in NVML's own error classes
                    found[f"system/gpu{number}_{quantity}"] = float(reader())
    return found
