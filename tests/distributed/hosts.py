"""Hosts that are network namespaces on one Ethernet bridge, and what a rank does on each of them.

As a program: `python -m tests.distributed.hosts TASK RANK RANKS FOLDER SPEC...` is that rank. TASK `sent` prints, as
JSON, the bytes that its interface sent per step of each spec; `run` leaves a record of the spec in the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from scalebench.records.record import Record
from scalebench.records.store import load_records
from scalebench.spec import PlannedRun, RunSpec
from tests.processes import ROOT

INTERFACE = "eth0"
STEPS = 3


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """Names of network namespaces, 10.77.0.1 upwards, joined by a bridge. PermissionError where none can be made."""
    tag = f"sb{os.getpid()}"
    names, bridge = [f"{tag}h{i}" for i in range(count)], f"{tag}br"
    try:
        try:
            ip("netns", "add", bridge)
        except (OSError, subprocess.CalledProcessError) as error:
            raise PermissionError("no network namespaces here") from error
        ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        ip("-n", bridge, "link", "set", "br0", "up")
        for index, name in enumerate(names):
            _plug_in(name, index, bridge)
        yield names
    finally:
        for name in (*names, bridge):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _plug_in(name: str, index: int, bridge: str) -> None:
    ip("netns", "add", name)
    port = f"port{index}"
    ip("-n", bridge, "link", "add", port, "type", "veth", "peer", "name", INTERFACE, "netns", name)
    ip("-n", bridge, "link", "set", port, "master", "br0", "up")
    ip("-n", name, "addr", "add", f"10.77.0.{index + 1}/24", "dev", INTERFACE)
    ip("-n", name, "link", "set", INTERFACE, "up")
    ip("-n", name, "link", "set", "lo", "up")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def limit_rate(hosts: Sequence[str], rate: str) -> None:
    """Let each host send at most `rate` (as tc writes it: 200mbit). PermissionError where the kernel cannot."""
    for host in hosts:
        shape = f"tc qdisc add dev {INTERFACE} root tbf rate {rate} burst 128kb latency 100ms"
        try:
            ip("netns", "exec", host, *shape.split())
        except (OSError, subprocess.CalledProcessError) as error:
            raise PermissionError("links cannot be shaped here") from error


def sent_per_step(hosts: Sequence[str], specs: Sequence[str], folder: Path) -> list[list[float]]:
    """Bytes sent per step by each host, one rank on each, for each spec (JSON)."""
    return [json.loads(output) for output in on_each(hosts, "sent", folder, specs)]


def run_on_hosts(hosts: Sequence[str], spec: RunSpec, folder: Path) -> Record:
    """The record of a run with one rank on each host, as a foreign launcher would start them."""
    on_each(hosts, "run", folder, [spec.model_dump_json()])
    (record,) = load_records(folder).records
    return record


def on_each(hosts: Sequence[str], task: str, folder: Path, specs: Sequence[str]) -> list[str]:
    """What each rank's process printed, one on each host. A failed one's error is raised."""
    program = [sys.executable, "-m", __name__, task]
    ranks = [
        subprocess.Popen(
            ["ip", "netns", "exec", host, *program, str(rank), str(len(hosts)), str(folder), *specs],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, host in enumerate(hosts)
    ]
    try:
        outputs = [rank.communicate(timeout=200) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), outputs
    return [out for out, _ in outputs]


def sent_bytes() -> int:
    """Bytes that the interface of this namespace has sent, headers included."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == INTERFACE:
            return int(counters.split()[8])
    raise AssertionError(f"no {INTERFACE} here")


def count_sent(rank: int, ranks: int, store: Path, specs: Sequence[str]) -> list[float]:
    import torch
    import torch.distributed as dist

    from tests.distributed.cells import running

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    dist.init_process_group("gloo", init_method=f"file://{store}/store", rank=rank, world_size=ranks)
    found = []
    for text in specs:
        with running(RunSpec.model_validate_json(text)) as (step, batches):
            dist.barrier()
            before = sent_bytes()
            for _ in range(STEPS):
                step(batches)
            dist.barrier()
            found.append((sent_bytes() - before) / STEPS)
    dist.barrier()
    return found


def run(rank: int, ranks: int, folder: Path, spec: str) -> None:
    from scalebench.harness.runner import execute_as_worker

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29577"}
    execute_as_worker(PlannedRun(spec=RunSpec.model_validate_json(spec)), results=folder)


def main(task: str, rank: str, ranks: str, folder: str, *specs: str) -> None:
    if task == "run":
        run(int(rank), int(ranks), Path(folder), specs[0])
    else:
        print(json.dumps(count_sent(int(rank), int(ranks), Path(folder), specs)))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
