"""Sensors of GPUs (NVML) and CPU packages (RAPL), read by a thread of a process that computes nothing. Torch-free.

The ranks are left alone: readings carry the time of the clock that all processes of a host share, and what belongs to
the timed window is cut out of them later. Whatever a sensor cannot say is left out, with the reason.
"""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from scalebench.machine import nvml, visible_handles
from scalebench.records.device import Quantity, SensorFacts
from scalebench.records.record import RankFacts

Reader = Literal["launcher", "rank"]

INTERVAL_SECONDS = 0.25
"""Power is an average over a second on recent GPUs, energy a running total: reading more often would tell little, and
take time from ranks that read their own sensors."""
MOST_READINGS = 2000
"""When there are as many, every other one is dropped and the interval doubled, so that records stay small."""
MARGIN_NS = 10**9
POWERCAP = Path("/sys/class/powercap")
NO_NVML = "NVML cannot be used here: nvidia-ml-py or the NVIDIA driver is missing"

GPU_QUANTITIES: dict[Quantity, Callable[[Any, Any], int]] = {
    "energy_millijoules": lambda library, gpu: library.nvmlDeviceGetTotalEnergyConsumption(gpu),
    "power_milliwatts": lambda library, gpu: library.nvmlDeviceGetPowerUsage(gpu),
    "sm_clock_mhz": lambda library, gpu: library.nvmlDeviceGetClockInfo(gpu, library.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda library, gpu: library.nvmlDeviceGetClockInfo(gpu, library.NVML_CLOCK_MEM),
    "temperature_celsius": lambda library, gpu: library.nvmlDeviceGetTemperature(gpu, library.NVML_TEMPERATURE_GPU),
    "throttle_mask": lambda library, gpu: library.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
    "utilisation_percent": lambda library, gpu: library.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "processes": lambda library, gpu: len(library.nvmlDeviceGetComputeRunningProcesses(gpu)),
}


@dataclass
class Sensor:
    """One device, how to read it, and what was read.

    A quantity that cannot be read the first time is not asked for again; one that fails later has a gap there.
    """

    kind: Literal["gpu", "cpu"]
    readers: dict[Quantity, Callable[[], int]]
    name: str | None = None
    uuid: str | None = None
    limits: dict[str, int | None] = field(default_factory=dict)
    unavailable: dict[Quantity, str] = field(default_factory=dict)
    time_ns: list[int] = field(default_factory=list)
    readings: dict[Quantity, list[int | None]] = field(default_factory=dict)

    def read(self) -> None:
        """Add one reading of everything that can be read."""
        self.time_ns.append(time.monotonic_ns())
        for quantity, reader in list(self.readers.items()):
            value = self._value(quantity, reader)
            if value is None and len(self.time_ns) == 1:
                del self.readers[quantity]
            else:
                self.readings.setdefault(quantity, []).append(value)

    def _value(self, quantity: Quantity, reader: Callable[[], int]) -> int | None:
        try:
            return int(reader())
        except Exception as error:  # NVML's own classes, one per code, OSError, ValueError
            self.unavailable[quantity] = f"{type(error).__name__}: {error}"
            return None

    def thin(self) -> None:
        """Keep every other reading."""
        self.time_ns = self.time_ns[::2]
        self.readings = {quantity: values[::2] for quantity, values in self.readings.items()}

    def facts(self, read_by: Reader) -> SensorFacts:
        """What was read so far."""
        return SensorFacts(
            kind=self.kind,
            name=self.name,
            uuid=self.uuid,
            read_by=read_by if self.time_ns else None,
            time_ns=self.time_ns,
            readings=self.readings,
            unavailable=self.unavailable,
            **self.limits,
        )


def gpu_sensors(library: Any) -> list[Sensor]:
    """A sensor per visible GPU; one that knows nothing, and why, when there is no NVML or no GPU is found by it."""
    try:
        handles = visible_handles(library) if library else []
    except Exception as error:
        return [_blind_gpu(f"{type(error).__name__}: {error}")]
    if not handles:
        return [_blind_gpu("NVML finds none of the visible GPUs" if library else NO_NVML)]
    return [_gpu_sensor(library, handle) for handle in handles]


def _gpu_sensor(library: Any, gpu: Any) -> Sensor:
    limits = {
        "max_sm_clock_mhz": _or_none(lambda: int(library.nvmlDeviceGetMaxClockInfo(gpu, library.NVML_CLOCK_SM))),
        "power_limit_milliwatts": _or_none(lambda: int(library.nvmlDeviceGetEnforcedPowerLimit(gpu))),
    }
    return Sensor(
        kind="gpu",
        name=_or_none(lambda: str(library.nvmlDeviceGetName(gpu))),
        uuid=_or_none(lambda: str(library.nvmlDeviceGetUUID(gpu))),
        limits=limits,
        readers={quantity: partial(reader, library, gpu) for quantity, reader in GPU_QUANTITIES.items()},
    )


def _or_none(ask: Callable[[], Any]) -> Any:
    with contextlib.suppress(Exception):
        return ask()
    return None


def _blind_gpu(reason: str) -> Sensor:
    return Sensor(kind="gpu", readers={}, unavailable=dict.fromkeys(GPU_QUANTITIES, reason))


def cpu_sensors(powercap: Path = POWERCAP) -> list[Sensor]:
    """A sensor per CPU package that Linux has an energy counter of; one that knows nothing, and why, without any."""
    folders = [path for path in sorted(powercap.glob("intel-rapl:*")) if path.name.count(":") == 1]
    packages = [path for path in folders if (_or_none((path / "name").read_text) or "").startswith("package")]
    if not packages:
        reason = f"this machine offers no energy counter of its CPUs (RAPL, {powercap}/intel-rapl:*)"
        return [Sensor(kind="cpu", readers={}, unavailable={"energy_millijoules": reason})]
    return [
        Sensor(
            kind="cpu",
            name=(package / "name").read_text().strip(),
            readers={"energy_millijoules": PackageEnergy(package).read_millijoules},
        )
        for package in packages
    ]


class PackageEnergy:
    """A RAPL counter of microjoules, which starts again from zero after some minutes at full power."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: int | None = None
        self._total = 0

    def read_millijoules(self) -> int:
        """Energy since the first reading, as long as no two readings are a whole turn apart. Raises OSError."""
        now = int((self._folder / "energy_uj").read_text())
        turn = int((self._folder / "max_energy_range_uj").read_text())
        self._total += (now - (now if self._last is None else self._last)) % max(turn, 1)
        self._last = now
        return self._total // 1000


class Sampler:
    """While entered, a thread of this process reads sensors every `INTERVAL_SECONDS`.

    Args:
        read_by: which process this is.
        gpus: read the GPUs that are visible here; with a `uuid` (as torch gives it) that one alone.
        cpus: read the CPU packages.
    """

    def __init__(self, *, read_by: Reader, gpus: bool, uuid: str | None = None, cpus: bool = True) -> None:
        self._read_by: Reader = read_by
        self._gpus, self._uuid, self._cpus = gpus, uuid, cpus
        self._sensors: list[Sensor] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="sensors", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def facts(self) -> list[SensorFacts]:
        """What every sensor said. To be asked after the end."""
        return [sensor.facts(self._read_by) for sensor in self._sensors]

    def _sample(self) -> None:
        with nvml() if self._gpus else contextlib.nullcontext() as library:
            gpus = gpu_sensors(library) if self._gpus else []
            chosen = [gpu for gpu in gpus if None in (self._uuid, gpu.uuid) or is_gpu(gpu.uuid, self._uuid)]
            self._sensors = chosen + (cpu_sensors() if self._cpus else [])
            self._read([sensor for sensor in self._sensors if sensor.readers])

    def _read(self, sensors: Sequence[Sensor]) -> None:
        """Until told to stop, and then once more."""
        interval, done = INTERVAL_SECONDS, False
        while sensors:
            for sensor in sensors:
                sensor.read()
            if done:
                return
            if len(sensors[0].time_ns) >= MOST_READINGS:
                interval *= 2
                for sensor in sensors:
                    sensor.thin()
            done = self._done.wait(interval)


def sensors_of_rank(sensors: Sequence[SensorFacts], rank: RankFacts) -> list[SensorFacts]:
    """Of all the sensors of a host, the GPU that `rank` computed on and, on its first local rank, the CPU packages.

    Their readings are cut to the rank's steps, with a second more on both sides for ranks that end later. GPUs are told
    apart by UUID, for CUDA may number them otherwise than NVML does; where CUDA did not tell it, by their order.
    """
    gpus = [sensor for sensor in sensors if sensor.kind == "gpu"]
    found = [sensor for sensor in sensors if sensor.kind == "cpu"] if rank.local_rank == 0 else []
    if rank.device_name is not None:
        found.insert(0, _gpu_of(rank, gpus))
    start_ns, end_ns = rank.chunks[0].start_ns - MARGIN_NS, rank.step_end_ns[-1] + MARGIN_NS
    return [_cut(sensor, start_ns, end_ns) for sensor in found]


def _gpu_of(rank: RankFacts, gpus: Sequence[SensorFacts]) -> SensorFacts:
    if gpus and gpus[0].read_by is None:
        return gpus[0]  # it stands for all of them and says why they are not known
    by_order = gpus[rank.local_rank : rank.local_rank + 1]
    same = [gpu for gpu in gpus if is_gpu(gpu.uuid, rank.device_uuid)] if rank.device_uuid else by_order
    if same:
        return same[0]
    reason = f"NVML shows no GPU {rank.device_uuid or rank.local_rank}, on which the rank computed"
    return SensorFacts(kind="gpu", unavailable=dict.fromkeys(GPU_QUANTITIES, reason))


def is_gpu(nvml_uuid: str | None, torch_uuid: str | None) -> bool:
    """Whether two UUIDs are of one GPU: torch gives them without NVML's prefix."""
    known = nvml_uuid is not None and torch_uuid is not None
    return known and str(nvml_uuid).removeprefix("GPU-") == str(torch_uuid).removeprefix("GPU-")


def _cut(sensor: SensorFacts, start_ns: int, end_ns: int) -> SensorFacts:
    """The readings from the last one before `start_ns` to the first one after `end_ns`."""
    first = max(0, bisect_right(sensor.time_ns, start_ns) - 1)
    last = bisect_left(sensor.time_ns, end_ns) + 1
    readings = {quantity: values[first:last] for quantity, values in sensor.readings.items()}
    return sensor.model_copy(update={"time_ns": sensor.time_ns[first:last], "readings": readings})
