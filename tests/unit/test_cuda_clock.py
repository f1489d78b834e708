"""What runs on CUDA alone, on stand-ins of the functions of torch.cuda that it calls: clock and memory limit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scalebench.harness.memory_limit import limited_memory
from scalebench.meters.clock import RUN_AHEAD_STEPS, clock_for

CUDA = torch.device("cuda", 0)
STEP_MS = 250.0


class Device:
    """A GPU on which a step ends every `STEP_MS`, and whose events have CUDA's resolution: 32-bit milliseconds."""

    def __init__(self) -> None:
        self.now = 1e6
        self.waited_for: list[int] = []
        self.recorded = 0

    def event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self._device = device

    def record(self) -> None:
        self.number, self.at = self._device.recorded, self._device.now
        self._device.recorded += 1
        self._device.now += STEP_MS

    def synchronize(self) -> None:
        self._device.waited_for.append(self.number)

    def elapsed_time(self, later: Event) -> float:
        return float(np.float32(later.at - self.at))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    return device


def test_marks_follow_the_start_by_the_times_between_events(device: Device) -> None:
    clock = clock_for(CUDA)
    start = clock.start()
    steps = 20_000
    for _ in range(steps):
        clock.mark()
    marks = clock.read_ns()
    assert marks == [start + round((index + 1) * STEP_MS * 1e6) for index in range(steps)]
    assert len(marks) == steps


def test_the_host_waits_for_the_step_before_the_last_two_and_for_none_if_told_so(device: Device) -> None:
    clock = clock_for(CUDA)
    clock.start()
    for _ in range(6):
        clock.mark()
    assert device.waited_for == [0, *range(7 - RUN_AHEAD_STEPS)]
    device.waited_for.clear()
    unbounded = clock_for(CUDA, run_ahead=None)
    unbounded.start()
    for _ in range(6):
        unbounded.mark()
    assert len(device.waited_for) == 1, "the start alone"


def test_a_limit_is_a_fraction_of_the_gpu_and_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=1000))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: fractions.append(share))
    with limited_memory(250, CUDA):
        assert fractions == [0.25]
    with limited_memory(4000, CUDA):
        pass
    assert fractions == [0.25, 1.0, 1.0, 1.0]
