"""Bytes that the network interfaces of this host have sent and received: Ethernet and the like, and InfiniBand."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scalebench.records.device import InterfaceBytes, NetworkFacts

INTERFACES = Path("/proc/net/dev")
INFINIBAND = Path("/sys/class/infiniband")
INFINIBAND_WORD_BYTES = 4
"""InfiniBand's port counters count words of four bytes (InfiniBand Architecture Specification, PortCounters)."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Cumulative bytes (sent, received) by interface, and when they were read."""

    time_ns: int
    interfaces: dict[str, tuple[int, int]]

    def since(self, earlier: Traffic) -> NetworkFacts:
        """Traffic from `earlier` to this reading, of the interfaces there were at both; counters that fell are left
        out."""
        moved = {
            name: (sent - earlier.interfaces[name][0], received - earlier.interfaces[name][1])
            for name, (sent, received) in self.interfaces.items()
            if name in earlier.interfaces
        }
        return NetworkFacts(
            opened_ns=earlier.time_ns,
            closed_ns=self.time_ns,
            interfaces={
                name: InterfaceBytes(sent=sent, received=received)
                for name, (sent, received) in moved.items()
                if sent >= 0 and received >= 0
            },
        )


def read_traffic() -> Traffic:
    """Now. Takes some ten microseconds, so it belongs beside the window, not between its steps."""
    return Traffic(time_ns=time.monotonic_ns(), interfaces={**dict(_interfaces()), **dict(_infiniband())})


def _interfaces() -> Iterator[tuple[str, tuple[int, int]]]:
    """Of this process's network namespace: field meanings as in proc_net(5)."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = INTERFACES.read_text().splitlines()[2:]
    for line in lines:
        name, _, counts = line.partition(":")
        with contextlib.suppress(ValueError, IndexError):
            fields = counts.split()
            yield name.strip(), (int(fields[8]), int(fields[0]))


def _infiniband() -> Iterator[tuple[str, tuple[int, int]]]:
    for counters in sorted(INFINIBAND.glob("*/ports/*/counters")):
        with contextlib.suppress(OSError, ValueError):
            sent, received = (
                int((counters / name).read_text()) * INFINIBAND_WORD_BYTES
                for name in ("port_xmit_data", "port_rcv_data")
            )
            yield f"{counters.parts[-4]}/{counters.parts[-2]}", (sent, received)
