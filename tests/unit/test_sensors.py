"""Sensors without a GPU: RAPL's files, the kernel's traffic counters, and what is made of readings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scalebench.analysis.device import GpuState, gpu_state, throttle_reasons, traffic
from scalebench.analysis.energy import COUNTER, INTEGRAL, Sensing, cpu_energy, energy_of, gpu_energy, joules_per_item
from scalebench.meters import device, network
from scalebench.meters.device import Sensor, cpu_sensors, sensors_of_rank
from scalebench.records.device import InterfaceBytes, NetworkFacts, Quantity, SensorFacts
from scalebench.records.record import ChunkFacts, Record
from scalebench.reporting.device import gpus, unknown_network
from scalebench.reporting.device import network as network_table
from scalebench.reporting.experiments import experiments
from tests.unit.factory import ITEMS_PER_SAMPLE, make_rank, make_record, make_spec

SECOND = 10**9
UUIDS = ["GPU-00", "GPU-11"]


def package(powercap: Path, number: int, name: str, microjoules: int, turn: int = 1_000_000) -> Path:
    """A RAPL zone as the kernel shows it."""
    folder = powercap / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", turn)):
        (folder / file).write_text(f"{value}\n")
    return folder


def test_a_package_counter_is_followed_through_its_turns(tmp_path: Path) -> None:
    zone = package(tmp_path, 0, "package-0", 900_000)
    package(tmp_path, 1, "psys", 5)
    (sensor,) = cpu_sensors(tmp_path)
    for microjoules in (900_000, 950_000, 50_000, 49_000):
        (zone / "energy_uj").write_text(str(microjoules))
        sensor.read()
    facts = sensor.facts("launcher")
    assert (facts.kind, facts.name) == ("cpu", "package-0")
    assert facts.readings == {"energy_millijoules": [0, 50, 150, 1149]}


def test_packages_that_cannot_be_read_are_unknown_with_a_reason(tmp_path: Path) -> None:
    zone = package(tmp_path / "there", 0, "package-0", 1)
    (zone / "energy_uj").unlink()
    (sensor,) = cpu_sensors(tmp_path / "there")
    sensor.read()
    (nothing,) = cpu_sensors(tmp_path / "nowhere")
    for facts in (sensor.facts("launcher"), nothing.facts("launcher")):
        assert facts.readings == {}
        assert facts.unavailable["energy_millijoules"]
    assert "RAPL" in nothing.unavailable["energy_millijoules"]
    assert "energy_uj" in sensor.unavailable["energy_millijoules"]


@pytest.mark.parametrize(
    ("file", "content"), [("energy_uj", "soon\n"), ("energy_uj", ""), ("max_energy_range_uj", None), ("name", None)]
)
def test_a_broken_package_counter_is_unknown_with_a_reason(tmp_path: Path, file: str, content: str | None) -> None:
    broken = package(tmp_path, 0, "package-0", 1) / file
    broken.unlink()
    if content is None:
        broken.mkdir()  # cannot be read, not even by root
    else:
        broken.write_text(content)
    (sensor,) = cpu_sensors(tmp_path)
    sensor.read()
    facts = sensor.facts("launcher")
    assert facts.readings == {}
    assert facts.unavailable["energy_millijoules"]
    found = cpu_energy(make_cpu_record(facts))
    assert (found.joules, found.reason) == (None, facts.unavailable["energy_millijoules"])


def make_cpu_record(facts: SensorFacts) -> Record:
    record = make_record(make_spec(), 1.0)
    return record.model_copy(update={"ranks": [record.ranks[0].model_copy(update={"sensors": [facts]})]})


def test_long_runs_keep_few_readings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package(tmp_path, 0, "package-0", 1)
    monkeypatch.setattr(device, "MOST_READINGS", 8)
    monkeypatch.setattr(device, "INTERVAL_SECONDS", 1e-4)
    monkeypatch.setattr(device, "cpu_sensors", lambda: cpu_sensors(tmp_path))
    waits: list[float] = []
    sampler = device.Sampler(read_by="launcher", gpus=False)
    monkeypatch.setattr(sampler._done, "wait", lambda interval: waits.append(interval) or len(waits) > 100)
    with sampler:
        sampler._thread.join()
    (facts,) = sampler.facts()
    assert 4 <= len(facts.time_ns) == len(facts.readings["energy_millijoules"]) <= 8
    assert waits[-1] > 8 * waits[0]
    assert facts.time_ns == sorted(facts.time_ns)


COUNTS = "{}  10 0 0 0 0 0 0"
PROC_NET_DEV = "two lines\nof headings\n    lo: {lo}  {lo}\n  eth0:{received}  {sent}\n"
"""Per interface eight counts of what was received, bytes first, and eight of what was sent."""


def test_traffic_is_the_difference_of_the_kernels_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interfaces, port = tmp_path / "dev", tmp_path / "infiniband" / "mlx5_0" / "ports" / "1" / "counters"
    monkeypatch.setattr(network, "INTERFACES", interfaces)
    monkeypatch.setattr(network, "INFINIBAND", tmp_path / "infiniband")
    port.mkdir(parents=True)
    readings = []
    for words, counts in (
        (7, {"lo": 5, "received": 100, "sent": 1000}),
        (10, {"lo": 3, "received": 150, "sent": 3000}),
    ):
        interfaces.write_text(PROC_NET_DEV.format(**{k: COUNTS.format(v) for k, v in counts.items()}))
        (port / "port_xmit_data").write_text(f"{words}\n")
        (port / "port_rcv_data").write_text(f"{2 * words}\n")
        readings.append(network.read_traffic())
    facts = readings[1].since(readings[0])
    assert facts.closed_ns > facts.opened_ns
    assert facts.interfaces == {
        "eth0": InterfaceBytes(sent=2000, received=50),
        "mlx5_0/1": InterfaceBytes(sent=12, received=24),
    }, "lo fell: it started anew"


def test_a_line_that_is_no_interface_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interfaces, port = tmp_path / "dev", tmp_path / "infiniband" / "mlx5_0" / "ports" / "1" / "counters"
    port.mkdir(parents=True)
    (port / "port_xmit_data").write_text("what?\n")
    lines = PROC_NET_DEV.format(lo=COUNTS.format(1), received=COUNTS.format(2), sent=COUNTS.format(3))
    interfaces.write_text(lines.replace("  eth0", "  wlan0: 7\n  tun0: a b c d e f g h i\n  eth0"))
    monkeypatch.setattr(network, "INTERFACES", interfaces)
    monkeypatch.setattr(network, "INFINIBAND", tmp_path / "infiniband")
    assert network.read_traffic().interfaces == {"lo": (1, 1), "eth0": (3, 2)}


def test_without_counters_there_is_no_traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "INTERFACES", tmp_path / "none")
    monkeypatch.setattr(network, "INFINIBAND", tmp_path / "none")
    assert network.read_traffic().interfaces == {}


def sensor_facts(seconds: list[float], index: int = 0, **readings: list[int | None]) -> SensorFacts:
    """A GPU with these readings at these times."""
    return SensorFacts(
        kind="gpu", uuid=UUIDS[index], read_by="launcher", time_ns=[round(s * SECOND) for s in seconds],
        readings=readings, max_sm_clock_mhz=2000,
    )  # fmt: skip


def sensing(facts: SensorFacts, start: float, end: float) -> Sensing:
    return Sensing(sensor=facts, start_ns=round(start * SECOND), end_ns=round(end * SECOND))


@given(
    readings=st.lists(st.tuples(st.floats(0.01, 0.2), st.integers(1, 10**6)), min_size=60, max_size=80),
    start=st.floats(0.5, 1.0),
)
def test_power_is_integrated_as_a_fine_sum_does(readings: list[tuple[float, int]], start: float) -> None:
    times = np.cumsum([gap for gap, _ in readings])
    start, end = times[0] + start * 1e-2, times[-1] - 1e-3
    assume(0.05 * (end - start) > 0.21)
    facts = sensor_facts(list(times), power_milliwatts=[power for _, power in readings])
    found = energy_of(sensing(facts, start, end))
    middles = np.linspace(start, end, 400_001)
    middles = (middles[1:] + middles[:-1]) / 2
    expected = np.interp(middles, times, [power for _, power in readings]).mean() * (end - start) / 1e3
    assert found.source == INTEGRAL
    assert found.joules == pytest.approx(expected, rel=1e-4)


TENTHS = [0.1 * index for index in range(61)]
STEADY = [1000 * index for index in range(61)]
"""Ten watts as a counter of millijoules read every tenth of a second."""


def test_the_counter_is_preferred_and_interpolated() -> None:
    facts = sensor_facts(TENTHS, energy_millijoules=STEADY, power_milliwatts=[7000] * 61)
    found = energy_of(sensing(facts, 0.55, 5.25))
    assert (found.source, found.joules) == (COUNTER, pytest.approx(47.0))


@pytest.mark.parametrize(
    ("counter", "reason"),
    [
        ([5000] * 61, "stood still"),
        ([*STEADY[:30], *STEADY[:31]], "fell"),
        ([None] * 61, "no sensor"),
        ([*STEADY[:3], *[None] * 55, *STEADY[58:]], None),
    ],
)
def test_a_counter_that_cannot_be_right_gives_way_to_power(counter: list[int | None], reason: str | None) -> None:
    alone = energy_of(sensing(sensor_facts(TENTHS, energy_millijoules=counter), 0.1, 5.9))
    beside = energy_of(
        sensing(sensor_facts(TENTHS, energy_millijoules=counter, power_milliwatts=[7000] * 61), 0.1, 5.9)
    )
    if reason:
        assert alone.joules is None
        assert reason in str(alone.reason)
        assert (beside.source, beside.joules) == (INTEGRAL, pytest.approx(7 * 5.8))
    else:
        assert beside.source == COUNTER, "gaps inside the window do not matter to a counter"


@pytest.mark.parametrize(
    ("times", "start", "end", "reason"),
    [
        (TENTHS, 0.2, 1.0, "--steps"),
        (TENTHS, 0.2, 7.0, "span"),
        ([], 0.2, 1.0, "no sensor"),
        ([0.1], 0.2, 1.0, "span"),
    ],
)
def test_too_few_readings_give_no_energy(times: list[float], start: float, end: float, reason: str) -> None:
    facts = sensor_facts(times, energy_millijoules=STEADY[: len(times)], power_milliwatts=[1] * len(times))
    found = energy_of(sensing(facts, start, end))
    assert found.joules is None
    assert reason in str(found.reason)


def test_a_gap_in_the_power_readings_gives_no_energy() -> None:
    power = [1000 if index < 20 or index > 40 else None for index in range(61)]
    assert energy_of(sensing(sensor_facts(TENTHS, power_milliwatts=power), 0.1, 5.9)).joules is None
    assert energy_of(sensing(sensor_facts(TENTHS, power_milliwatts=[0] * 61), 0.1, 5.9)).joules is None


def gpu_record(*sensors: list[SensorFacts]) -> Record:
    """A run on GPUs of two warm-up and four timed steps of one second each, whose ranks have these sensors."""
    spec = make_spec(device="cuda", world_size=len(sensors))
    record = make_record(spec, 1.0)
    ranks = [rank.model_copy(update={"sensors": found}) for rank, found in zip(record.ranks, sensors, strict=True)]
    return record.model_copy(update={"ranks": ranks})


def full(index: int, watts: int = 100, **changed: list[int | None]) -> SensorFacts:
    """A GPU all of whose readings are there, every 50 ms from the first step to after the last."""
    times = [0.05 * k for k in range(123)]
    same: dict[Quantity, int] = {
        "sm_clock_mhz": 1500, "memory_clock_mhz": 2600, "temperature_celsius": 60 + index, "throttle_mask": 0,
        "utilisation_percent": 90, "processes": 1,
    }  # fmt: skip
    readings: dict[str, list[int | None]] = {name: [value] * len(times) for name, value in same.items()}
    readings["energy_millijoules"] = [50 * watts * k for k in range(len(times))]
    return sensor_facts(times, index, **{**readings, **changed})


def test_energy_is_that_of_all_gpus_over_the_items_of_the_window() -> None:
    record = gpu_record([full(0)], [full(1, watts=300)])
    energy = gpu_energy(record)
    assert (energy.joules, energy.source) == (pytest.approx(1600), COUNTER)
    items = record.spec.global_batch * ITEMS_PER_SAMPLE * record.spec.steps
    assert joules_per_item(record, energy) == pytest.approx(1600 / items)
    assert cpu_energy(record).joules is None


def test_one_unknown_gpu_makes_the_sum_unknown() -> None:
    blind = SensorFacts(kind="gpu", unavailable={"energy_millijoules": "NVMLError_GpuIsLost"})
    energy = gpu_energy(gpu_record([full(0)], [blind]))
    assert energy.joules is None
    assert "GpuIsLost" in str(energy.reason)
    assert joules_per_item(gpu_record([full(0)]), energy) is None


def test_ranks_that_share_a_gpu_count_it_once() -> None:
    assert gpu_energy(gpu_record([full(0)], [full(0)])).joules == pytest.approx(400)


def test_the_state_is_of_the_window_and_of_the_worst_gpu() -> None:
    times = len(full(0).time_ns)
    slow = [1200 if 60 <= k < 120 else 1900 for k in range(times)]
    throttled = [0x4 if 40 <= k <= 60 else 0x1 for k in range(times)]
    state = gpu_state(
        gpu_record([full(0)], [full(1, sm_clock_mhz=slow, throttle_mask=throttled, processes=[3] * times)])
    )
    inside = slow[40:121]
    assert state == GpuState(
        watts=pytest.approx(100),
        sm_clock_mhz=pytest.approx(np.mean(inside)),
        sm_clock_share=pytest.approx(np.mean(inside) / 2000),
        memory_clock_mhz=2600,
        temperature_celsius=61,
        utilisation=0.9,
        throttled={"power cap": pytest.approx(21 / 81)},
        other_processes=2,
    )


def test_what_no_sensor_told_is_unknown_never_zero() -> None:
    state = gpu_state(gpu_record([SensorFacts(kind="gpu", uuid="GPU-00")]))
    assert state == GpuState(
        watts=None, sm_clock_mhz=None, sm_clock_share=None, memory_clock_mhz=None, temperature_celsius=None,
        utilisation=None, throttled=None, other_processes=None,
    )  # fmt: skip
    assert gpu_state(make_record()) is None
    nobody = gpu_state(gpu_record([full(0, processes=[0] * len(full(0).time_ns))]))
    assert nobody is not None
    assert nobody.other_processes is None, "NVML does not even show the rank"


def test_a_clock_of_zero_is_a_sensor_that_does_not_work() -> None:
    times = len(full(0).time_ns)
    dead = full(0, sm_clock_mhz=[0] * times, temperature_celsius=[0] * times, memory_clock_mhz=[None] * times)
    dead = dead.model_copy(update={"unavailable": {"memory_clock_mhz": "NVMLError_NotSupported: Not Supported"}})
    record = gpu_record([dead])
    state = gpu_state(record)
    assert state is not None
    assert (state.sm_clock_mhz, state.sm_clock_share, state.memory_clock_mhz, state.temperature_celsius) == (None,) * 4
    (experiment,) = experiments([record])
    shown = gpus(experiment)
    assert shown is not None
    assert {"SM clock, MHz", "memory clock, MHz", "hottest, °C"}.isdisjoint(shown.frame)
    notes = " ".join(shown.notes)
    assert "SM clock and temperature, no valid reading in the window" in notes
    assert "memory clock, NVMLError_NotSupported" in notes


def test_why_nothing_is_known_of_the_network_is_said() -> None:
    record = gpu_record([full(0)])
    (unread,) = experiments([record])
    assert network_table(unread) is None
    assert "no counters could be read" in unknown_network(unread)
    still = NetworkFacts(opened_ns=0, closed_ns=1, interfaces={"eth0": InterfaceBytes(sent=0, received=0)})
    rank = record.ranks[0].model_copy(update={"network": still})
    (quiet,) = experiments([record.model_copy(update={"ranks": [rank]})])
    assert network_table(quiet) is None
    assert "nothing went through" in unknown_network(quiet)


def test_throttle_bits_have_names() -> None:
    assert throttle_reasons(0) == []
    assert throttle_reasons(0x4 | 0x40) == ["power cap", "thermal slowdown by the hardware"]
    assert throttle_reasons(1 << 40) == ["reason 0x10000000000"]


def test_the_names_are_pynvmls_bits() -> None:
    pynvml = pytest.importorskip("pynvml")
    words = {
        "GpuIdle": "idle", "ApplicationsClocksSetting": "application clocks", "SwPowerCap": "power cap",
        "HwSlowdown": "hardware slowdown", "SyncBoost": "synchronised", "SwThermalSlowdown": "by the driver",
        "HwThermalSlowdown": "by the hardware", "HwPowerBrakeSlowdown": "power brake",
        "DisplayClockSetting": "display clock",
    }  # fmt: skip
    for name, word in words.items():
        (told,) = throttle_reasons(getattr(pynvml, f"nvmlClocksThrottleReason{name}"))
        assert word in told


def test_each_rank_gets_its_own_gpu_by_uuid_and_its_own_steps() -> None:
    times = [float(second) for second in range(10)]
    gpus = [sensor_facts(times, index, power_milliwatts=list(range(10))) for index in (0, 1)]
    cpu = SensorFacts(kind="cpu", read_by="launcher", time_ns=[0], readings={"energy_millijoules": [1]})
    ends = [round(s * SECOND) for s in (4.5, 5.5)]
    begun = [ChunkFacts(first_step=0, start_ns=round(3.5 * SECOND), end_ns=ends[-1])]
    first = make_rank(0, ends, device_name="X", device_uuid="11", chunks=begun)
    second = make_rank(1, ends, device_name="X", device_uuid="00", chunks=begun)
    found, processors = sensors_of_rank([*gpus, cpu], first)
    assert (found.uuid, found.readings["power_milliwatts"]) == ("GPU-11", [2, 3, 4, 5, 6, 7])
    assert found.time_ns == [s * SECOND for s in (2, 3, 4, 5, 6, 7)]
    assert processors.kind == "cpu"
    assert [sensor.uuid for sensor in sensors_of_rank([*gpus, cpu], second)] == ["GPU-00"]
    nameless = make_rank(1, ends, device_name="X")
    assert [sensor.uuid for sensor in sensors_of_rank(gpus, nameless)] == ["GPU-11"]
    (unknown,) = sensors_of_rank(gpus, make_rank(1, ends, device_name="X", device_uuid="77"))
    assert "77" in unknown.unavailable["energy_millijoules"]
    (missing,) = sensors_of_rank([], make_rank(1, ends, device_name="X"))
    assert missing.unavailable
    assert sensors_of_rank(gpus, make_rank(1, ends)) == [], "a CPU rank has no GPU"


def test_traffic_is_divided_by_the_steps_between_the_readings() -> None:
    record = gpu_record([full(0)])
    network_facts = NetworkFacts(
        opened_ns=0,
        closed_ns=8 * SECOND,
        interfaces={"eth0": InterfaceBytes(sent=800, received=400), "lo": InterfaceBytes(sent=0, received=0)},
    )
    rank = record.ranks[0].model_copy(update={"network": network_facts})
    found = traffic(record.model_copy(update={"ranks": [rank]}))
    assert found is not None
    assert (found.interface, found.sent_per_step, found.received_per_step) == ("eth0", 200, 100)
    assert traffic(record) is None


def test_a_sensor_that_fails_at_first_is_not_asked_again() -> None:
    asked: list[int] = []

    def broken() -> int:
        asked.append(1)
        raise OSError("no")

    sensor = Sensor(kind="cpu", readers={"power_milliwatts": broken, "energy_millijoules": lambda: 1})
    for _ in range(3):
        sensor.read()
    assert len(asked) == 1
    assert sensor.readings == {"energy_millijoules": [1, 1, 1]}
    assert sensor.unavailable == {"power_milliwatts": "OSError: no"}
