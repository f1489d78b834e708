"""GPUs through pynvml's real calls, answered by a compiled stand-in for NVIDIA's library."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalebench.analysis.energy import COUNTER, INTEGRAL, Sensing, energy_of
from scalebench.records.device import SensorFacts
from tests.fake_nvml.library import build, run

UUID = "GPU-{0}{0}000000-aaaa-bbbb-cccc-dddddddddddd"

SAMPLE = """
import time
from scalebench.meters import device
device.INTERVAL_SECONDS = 0.001
with device.Sampler(read_by="launcher", gpus=True, cpus=False) as sampler:
    while sampler._thread.is_alive() and not (sampler._sensors and len(sampler._sensors[-1].time_ns) > 40):
        time.sleep(0.005)
result = [facts.model_dump() for facts in sampler.facts()]
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def sample(library: Path, **environment: str) -> list[SensorFacts]:
    """What the sampler read from the stand-in's GPUs, 40 times each if anything can be read."""
    return [SensorFacts.model_validate(facts) for facts in run(library, SAMPLE, **environment)]


def window_of(sensor: SensorFacts) -> Sensing:
    """A window of 29.5 readings, these being put ten milliseconds apart: the time that the stand-in lets go by."""
    times = [10_000_000 * index for index in range(len(sensor.time_ns))]
    spaced = sensor.model_copy(update={"time_ns": times})
    return Sensing(sensor=spaced, start_ns=5_000_000, end_ns=300_000_000)


def test_everything_is_read_of_every_gpu(library: Path) -> None:
    sensors = sample(library, FAKE_NVML_GPUS="2")
    assert [sensor.uuid for sensor in sensors] == [UUID.format(0), UUID.format(1)]
    for index, sensor in enumerate(sensors):
        assert (sensor.kind, sensor.name, sensor.read_by) == ("gpu", f"Fake GPU {index}", "launcher")
        assert (sensor.max_sm_clock_mhz, sensor.power_limit_milliwatts) == (2000, 700_000)
        assert sensor.unavailable == {}
        steady = {quantity: set(values) for quantity, values in sensor.readings.items()}
        energy = steady.pop("energy_millijoules")
        assert len(energy) > 2
        assert steady == {
            "power_milliwatts": {(index + 1) * 100_000},
            "sm_clock_mhz": {1500 - 100 * index},
            "memory_clock_mhz": {2600},
            "temperature_celsius": {60 + index},
            "throttle_mask": {0x24},
            "utilisation_percent": {97 - index},
            "processes": {2},
        }
        assert {len(values) for values in sensor.readings.values()} == {len(sensor.time_ns)}


def test_the_energy_counter_gives_the_joules_that_the_gpu_drew(library: Path) -> None:
    for index, sensor in enumerate(sample(library, FAKE_NVML_GPUS="2")):
        found = energy_of(window_of(sensor))
        assert found.source == COUNTER
        assert found.joules == pytest.approx(100 * (index + 1) * 0.295)


@pytest.mark.parametrize(
    ("flags", "code", "error"), [(["-DWITHOUT_ENERGY"], 0, "FunctionNotFound"), ([], 3, "NotSupported")]
)
def test_without_an_energy_counter_power_is_integrated(tmp_path: Path, flags: list[str], code: int, error: str) -> None:
    old = build(tmp_path, *flags)
    (sensor,) = sample(old, FAKE_NVML_FAIL=f"nvmlDeviceGetTotalEnergyConsumption={code}")
    assert error in sensor.unavailable["energy_millijoules"]
    assert "energy_millijoules" not in sensor.readings
    found = energy_of(window_of(sensor))
    assert found.source == INTEGRAL
    assert found.joules == pytest.approx(29.5)


def test_functions_that_an_old_driver_lacks_are_unknown_one_by_one(tmp_path: Path) -> None:
    functions = {
        "TotalEnergyConsumption": "energy_millijoules",
        "PowerUsage": "power_milliwatts",
        "Temperature": "temperature_celsius",
        "CurrentClocksThrottleReasons": "throttle_mask",
        "UtilizationRates": "utilisation_percent",
        "ComputeRunningProcesses_v3": "processes",
        "MaxClockInfo": None,
        "EnforcedPowerLimit": None,
    }
    old = build(tmp_path, *(f"-DnvmlDeviceGet{name}=absent{name}" for name in functions))
    (sensor,) = sample(old)
    assert set(sensor.readings) == {"sm_clock_mhz", "memory_clock_mhz"}
    assert set(sensor.unavailable) == {quantity for quantity in functions.values() if quantity}
    assert all("NotFound" in reason or "not match" in reason for reason in sensor.unavailable.values())
    assert (sensor.name, sensor.max_sm_clock_mhz, sensor.power_limit_milliwatts) == ("Fake GPU 0", None, None)


def test_without_any_sensor_there_is_a_reason_and_no_number(library: Path) -> None:
    functions = (
        "TotalEnergyConsumption", "PowerUsage", "ClockInfo", "Temperature", "CurrentClocksThrottleReasons",
        "UtilizationRates", "ComputeRunningProcesses_v3", "MaxClockInfo", "EnforcedPowerLimit", "Name", "UUID",
    )  # fmt: skip
    (sensor,) = sample(library, FAKE_NVML_FAIL=",".join(f"nvmlDeviceGet{name}=4" for name in functions))
    assert sensor.readings == {}
    assert (sensor.name, sensor.uuid, sensor.max_sm_clock_mhz, sensor.power_limit_milliwatts) == (None,) * 4
    assert len(sensor.unavailable) == 8
    assert all("NoPermission" in reason for reason in sensor.unavailable.values())
    found = energy_of(window_of(sensor))
    assert found.joules is None
    assert "NoPermission" in str(found.reason)


def test_an_error_mid_way_leaves_a_gap_and_is_told(library: Path) -> None:
    (sensor,) = sample(library, FAKE_NVML_FAIL="nvmlDeviceGetPowerUsage=999:3:4,nvmlDeviceGetTemperature=15:2")
    power = sensor.readings["power_milliwatts"]
    assert power[:5] == [100_000, 100_000, None, None, 100_000]
    assert set(sensor.readings["temperature_celsius"][1:]) == {None}
    assert "Unknown" in sensor.unavailable["power_milliwatts"]
    assert "GpuIsLost" in sensor.unavailable["temperature_celsius"]
    assert "energy_millijoules" not in sensor.unavailable


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"FAKE_NVML_FAIL": "nvmlInitWithFlags=9"}, "driver is missing"),
        ({"FAKE_NVML_FAIL": "nvmlDeviceGetCount_v2=999"}, "Unknown"),
        ({"FAKE_NVML_GPUS": "0"}, "none of the visible GPUs"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1234"}, "none of the visible GPUs"),
    ],
)
def test_gpus_that_nvml_cannot_show_are_unknown_with_a_reason(
    library: Path, environment: dict[str, str], reason: str
) -> None:
    (sensor,) = sample(library, **environment)
    assert (sensor.readings, sensor.read_by) == ({}, None)
    assert all(reason in told for told in sensor.unavailable.values())


VISIBLE = """
import dataclasses, os
from scalebench.machine import detect, visible_gpus
machines = []
for selection in {selections}:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if selection is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = selection
    machines.append(dataclasses.asdict(detect("auto")))
result = machines
"""

TORCHS_COUNT = """
import os, torch
counts = []
for selection in {selections}:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if selection is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = selection
    counts.append(torch.cuda._device_count_nvml())
result = counts
"""

SELECTIONS: dict[str | None, list[int]] = {
    None: [0, 1, 2],
    "2,0": [2, 0],
    " 2 , 0": [2, 0],
    "1gpu,+2": [1, 2],
    UUID.format(1): [1],
    "GPU-22,GPU-00": [2, 0],
    "0,7,1": [0],
    "0,-1,2": [0],
    "0,,2": [0],
    "1,GPU-00": [1],
    "GPU-11,0": [1],
    "GPU-zz,GPU-00": [],
    "GPU-,GPU-00": [],  # three begin like that
    "0,0": [],
    "GPU-00,GPU-00": [],
    "-1": [],
    "": [],
}
"""CUDA_VISIBLE_DEVICES to the GPUs that it leaves, of three."""


def test_visible_gpus_are_those_that_cuda_would_show(library: Path) -> None:
    machines = run(library, VISIBLE.format(selections=list(SELECTIONS)), FAKE_NVML_GPUS="3")
    for machine, (selection, found) in zip(machines, SELECTIONS.items(), strict=True):
        assert machine["gpu_names"] == [f"Fake GPU {index}" for index in found], selection
        assert machine["device"] == ("cuda" if found else "cpu")
        assert machine["gpu_count"] == len(found)
        if found:
            assert machine["bf16_native"] == (1 not in found), "GPU 1 is older than bfloat16"


def test_torch_counts_as_many(library: Path) -> None:
    counts = run(library, TORCHS_COUNT.format(selections=list(SELECTIONS)), FAKE_NVML_GPUS="3")
    assert counts == [len(found) for found in SELECTIONS.values()]


def test_a_driver_that_does_not_work_means_no_gpu(library: Path) -> None:
    for function in ("nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetName"):
        (machine,) = run(library, VISIBLE.format(selections=[None]), FAKE_NVML_FAIL=f"{function}=15")
        assert (machine["device"], machine["gpu_count"]) == ("cpu", 0)


COLLECT = """
from scalebench.records import environment
environment._torch_facts = dict  # spare the import of torch
facts = environment.collect()
result = {name: facts[name] for name in ("gpus", "driver", "topology")}
"""


def test_the_environment_holds_the_gpus_their_driver_and_how_they_are_connected(library: Path) -> None:
    facts = run(library, COLLECT, FAKE_NVML_GPUS="3", CUDA_VISIBLE_DEVICES="0,2,1")
    assert facts == {
        "gpus": ["Fake GPU 0", "Fake GPU 2", "Fake GPU 1"],
        "driver": "999.42",
        "topology": [[None, 40, 10], [40, None, 40], [10, 40, None]],
    }


@pytest.mark.parametrize(
    ("function", "lost"),
    [
        ("nvmlSystemGetDriverVersion", {"driver"}),
        ("nvmlDeviceGetName", {"gpus"}),
        ("nvmlDeviceGetTopologyCommonAncestor", {"topology"}),
        ("nvmlDeviceGetCount_v2", {"gpus", "topology"}),
    ],
)
def test_what_a_broken_driver_cannot_tell_is_unknown_and_the_rest_is_kept(
    library: Path, function: str, lost: set[str]
) -> None:
    facts = run(library, COLLECT, FAKE_NVML_GPUS="2", FAKE_NVML_FAIL=f"{function}=999")
    assert {name for name, value in facts.items() if value is None} == lost
