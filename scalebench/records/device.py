"""What the machine's own sensors said while a run stepped: GPUs, CPU packages, network interfaces."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from scalebench.records.facts import Facts

Quantity = Literal[
    "energy_millijoules",
    "power_milliwatts",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "temperature_celsius",
    "throttle_mask",
    "utilisation_percent",
    "processes",
]


class SensorFacts(Facts):
    """Readings of one GPU or CPU package, from just before this rank's first step to just after its last.

    Attributes:
        read_by: the process whose thread read: `launcher`, beside the ranks, or `rank`, under a foreign launcher; None
            when there was nothing to read.
        time_ns: when each reading was made, CLOCK_MONOTONIC.
        readings: per quantity one value per time, None where that reading failed. Energy is a counter, from an
            arbitrary start; power, clocks, temperature and utilisation are momentary, as the driver averages them;
            `throttle_mask` is NVML's bit mask of reasons for clocks below their highest; `processes` counts those with
            a compute context on the GPU.
        unavailable: why a quantity was never, or not always, read.
        max_sm_clock_mhz, power_limit_milliwatts: what the GPU is allowed.
    """

    kind: Literal["gpu", "cpu"]
    name: str | None = None
    uuid: str | None = None
    read_by: Literal["launcher", "rank"] | None = None
    time_ns: list[int] = Field(default_factory=list)
    readings: dict[Quantity, list[int | None]] = Field(default_factory=dict)
    unavailable: dict[Quantity, str] = Field(default_factory=dict)
    max_sm_clock_mhz: int | None = None
    power_limit_milliwatts: int | None = None


class InterfaceBytes(Facts):
    """What one network interface sent and received."""

    sent: int
    received: int


class NetworkFacts(Facts):
    """Traffic of this rank's host, everybody's, between two readings around the window.

    Attributes:
        opened_ns, closed_ns: when the two were made, CLOCK_MONOTONIC, between steps.
        interfaces: by name as the kernel has it; an InfiniBand port is `device/port`.
    """

    opened_ns: int
    closed_ns: int
    interfaces: dict[str, InterfaceBytes]
