"""What NVML says through our sensors against nvidia-smi, on a GPU that is busy all the while."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from scalebench.machine import detect, visible_gpus
from scalebench.meters.device import Sampler
from scalebench.records.device import SensorFacts
from scalebench.search.start import room_bytes
from tests.gpu.needed import cuda
from tests.gpu.test_gpu_memory import spec

BUSY_SECONDS = 6.0
MIB = 2**20


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Matrix products one after another on the first GPU, from a second before the inside on."""
    done = threading.Event()

    def multiply() -> None:
        left = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
        while not done.is_set():
            for _ in range(20):
                torch.mm(left, left)
            torch.cuda.synchronize()

    worker = threading.Thread(target=multiply)
    worker.start()
    time.sleep(1.0)
    try:
        yield
    finally:
        done.set()
        worker.join()


def nvidia_smi(*fields: str) -> list[str]:
    """What nvidia-smi says of the first GPU, without units."""
    if shutil.which("nvidia-smi") is None:
        pytest.skip("there is no nvidia-smi")
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    return [word.strip() for word in subprocess.check_output(command, text=True).split(",")]


def sampled() -> tuple[SensorFacts, list[list[str]]]:
    """The first GPU's sensor over some busy seconds, and nvidia-smi's readings of power, clocks and heat meanwhile."""
    asked = ("power.draw.instant", "clocks.sm", "clocks.mem", "temperature.gpu", "utilization.gpu")
    with busy(), Sampler(read_by="launcher", gpus=True, cpus=False) as sampler:
        ends, seen = time.monotonic() + BUSY_SECONDS, list[list[str]]()
        while time.monotonic() < ends:
            seen.append(nvidia_smi(*asked))
    return sampler.facts()[0], seen


def middle(values: list[int | None]) -> float:
    return statistics.median(value for value in values if value is not None)


def column(seen: list[list[str]], index: int) -> float:
    return statistics.median(float(row[index]) for row in seen)


@cuda
def test_power_energy_clocks_and_heat_are_those_of_nvidia_smi() -> None:
    sensor, seen = sampled()
    assert sensor.unavailable == {}, "an H200 has all of them"
    read = sensor.readings
    assert middle(read["power_milliwatts"]) / 1e3 == pytest.approx(column(seen, 0), rel=0.15)
    assert middle(read["sm_clock_mhz"]) == pytest.approx(column(seen, 1), rel=0.05)
    assert middle(read["memory_clock_mhz"]) == pytest.approx(column(seen, 2), rel=0.01)
    assert middle(read["temperature_celsius"]) == pytest.approx(column(seen, 3), abs=5)
    assert middle(read["utilisation_percent"]) == pytest.approx(column(seen, 4), abs=10)


@cuda
def test_the_energy_counter_agrees_with_the_power_over_the_same_seconds() -> None:
    sensor, _ = sampled()
    energy = [value for value in sensor.readings["energy_millijoules"] if value is not None]
    seconds = (sensor.time_ns[-1] - sensor.time_ns[0]) / 1e9
    watts = middle(sensor.readings["power_milliwatts"]) / 1e3
    assert (energy[-1] - energy[0]) / 1e3 == pytest.approx(watts * seconds, rel=0.2)


@cuda
def test_limits_names_and_throttling_are_those_of_nvidia_smi() -> None:
    name, uuid, clock, power = nvidia_smi("name", "uuid", "clocks.max.sm", "enforced.power.limit")
    with busy(), Sampler(read_by="launcher", gpus=True, cpus=False) as sampler:
        time.sleep(1.5)
        reasons = nvidia_smi("clocks_event_reasons.active")[0]
    sensor = sampler.facts()[0]
    assert (sensor.name, sensor.uuid) == (name, uuid)
    assert sensor.max_sm_clock_mhz == int(clock)
    assert sensor.power_limit_milliwatts == pytest.approx(1000 * float(power), rel=0.01)
    assert int(reasons, 16) in set(sensor.readings["throttle_mask"])


@cuda
def test_the_gpu_is_the_one_that_torch_computes_on() -> None:
    properties = torch.cuda.get_device_properties(0)
    (total,) = nvidia_smi("memory.total")
    assert visible_gpus()[0] == (torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0))
    assert detect("auto").device == "cuda"
    assert room_bytes(spec(micro_batch=1)) == pytest.approx(int(total) * MIB, rel=0.01)
    assert properties.total_memory <= int(total) * MIB
