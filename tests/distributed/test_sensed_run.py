"""A real run whose launcher reads sensors beside it, and whose network traffic is counted by the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalebench.analysis.device import traffic
from scalebench.analysis.energy import COUNTER, cpu_energy
from scalebench.analysis.phases import phase_times
from scalebench.meters import device
from tests.distributed.test_runner import run_one, tiny

pytestmark = pytest.mark.distributed

MICROJOULES_PER_READING = 2_500_000


class Counter:
    """A package's counter file that has gone on by the same amount whenever it is read."""

    name = "package-0"

    def __init__(self) -> None:
        self.readings = 0

    def read_millijoules(self) -> int:
        self.readings += 1
        return self.readings * MICROJOULES_PER_READING // 1000


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()
    sensor = device.Sensor(kind="cpu", name="package-0", readers={"energy_millijoules": counter.read_millijoules})
    monkeypatch.setattr(device, "cpu_sensors", lambda: [sensor])
    monkeypatch.setattr(device, "INTERVAL_SECONDS", 0.01)
    return counter


def test_sensors_traffic_and_phases_of_a_real_run(tmp_path: Path, counter: Counter) -> None:
    record = run_one(tiny(steps=60), tmp_path)
    assert record.status == "ok", record.reason
    first, second = record.ranks
    (sensor,) = first.sensors
    assert (sensor.read_by, sensor.name, second.sensors) == ("launcher", "package-0", [])
    assert 2 < len(sensor.time_ns) <= counter.readings
    begin, end = first.chunks[0].start_ns, first.step_end_ns[-1]
    assert begin - 5e9 < sensor.time_ns[0] <= begin < end <= sensor.time_ns[-1] < end + 5e9
    energy = cpu_energy(record)
    assert energy.source == COUNTER or "--steps" in str(energy.reason), "a busy machine may read too rarely"

    assert second.network is None
    moved = traffic(record)
    assert moved is not None
    assert record.workload is not None
    gradients = 4 * record.workload.parameters
    assert moved.interface == "lo"
    # Two ranks of a ring send their whole gradients once each; others on this machine may use lo too.
    assert moved.sent_per_step >= 0.95 * 2 * gradients

    times = phase_times(record)
    assert times is not None
    assert all(time.mean > 0 for time in times.values())
