"""How the GPUs of this machine reach each other: peer access, NVLink, PCIe."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from scalebench.doctor import sensors
from scalebench.doctor.finding import CannotTellError, Finding, note, ok, problem

ANCESTORS = {
    0: "one board",
    10: "one PCIe switch",
    20: "several PCIe switches",
    30: "one PCIe host bridge",
    40: "one NUMA node",
    50: "across sockets",
}
"""NVML's nearest common ancestors of two GPUs (nvml.h, nvmlGpuTopologyLevel)."""
READ_CAPABILITY = 0
PEER_OK = 0


def peer_access() -> Iterator[Finding]:
    """Without peer access NCCL copies through host memory, several times slower; with a half-working one it hangs."""
    with sensors.gpus() as (nvml, gpus):
        _need_two(gpus)
        for one, other in itertools.combinations(gpus, 2):
            way = ANCESTORS.get(int(nvml.nvmlDeviceGetTopologyCommonAncestor(one.handle, other.handle)), "unknown way")
            status = nvml.nvmlDeviceGetP2PStatus(one.handle, other.handle, READ_CAPABILITY)
            pair = f"GPU {one.number} and {other.number} ({way})"
            if status == PEER_OK:
                yield ok(f"{pair}: peer access")
            else:
                yield note(
                    f"{pair}: no peer access (NVML status {status})",
                    "if they should have it: turn off PCIe ACS and the IOMMU in the BIOS; see: nvidia-smi topo -p2p r",
                )


def nvlink() -> Iterator[Finding]:
    """A link that is down halves bandwidth between GPUs without any error."""
    with sensors.gpus() as (nvml, gpus):
        _need_two(gpus)
        for gpu in gpus:
            states = list(_link_states(nvml, gpu.handle))
            if not states:
                yield ok(f"{gpu}: has no NVLink")
            elif all(states):
                yield ok(f"{gpu}: {len(states)} links up")
            else:
                yield note(
                    f"{gpu}: {sum(states)} of {len(states)} links up",
                    f"nvidia-smi nvlink -s -i {gpu.number}; links that are down beside others that are up need service",
                )


def _link_states(nvml: Any, handle: Any) -> Iterator[bool]:
    """Whether each link is up; ends at the first that the GPU does not have."""
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            yield bool(nvml.nvmlDeviceGetNvLinkState(handle, link))
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
            return


def pcie() -> Iterator[Finding]:
    """A GPU in a narrow slot loads data and, without NVLink, reduces gradients at a fraction of the speed."""
    with sensors.gpus() as (nvml, gpus):
        for gpu in gpus:
            width = nvml.nvmlDeviceGetCurrPcieLinkWidth(gpu.handle)
            most = nvml.nvmlDeviceGetMaxPcieLinkWidth(gpu.handle)
            if width < most:
                yield problem(f"{gpu}: x{width} of x{most} lanes", "reseat the GPU, or move it to a full slot")
            else:
                yield ok(f"{gpu}: x{width}")


def _need_two(gpus: list[sensors.Gpu]) -> None:
    if len(gpus) < 2:
        raise CannotTellError("one GPU alone has no peer")


CHECKS = (peer_access, nvlink, pcie)
