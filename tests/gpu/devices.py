"""Which GPU devices the processes that start ranks hold open, after a run: none, or what they fork would share them.

    python -m tests.gpu.devices cuda|cpu [MODULE]

Prints JSON: of the fork server and of the launcher, the device files that are open. MODULE is preloaded too.
"""

from __future__ import annotations

import json
import multiprocessing.forkserver
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from scalebench.harness.job import Job, Orders
from scalebench.harness.launcher import Launcher
from scalebench.harness.lifeline import private_folder
from scalebench.machine import detect
from scalebench.spec import PlannedRun

GPU_DEVICE = re.compile(r"/nvidia([0-9]+|-uvm)$")
"""A GPU, or the memory that CUDA shares with it. (nvidiactl is asked what GPUs there are, and holds none of them.)"""


def open_devices(pid: int) -> list[str]:
    """The GPU device files that process `pid` holds open."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    opened = (os.readlink(link) for link in links if link.is_symlink())
    return sorted({path for path in opened if GPU_DEVICE.search(path)})


def fork_server() -> int:
    """The process id of this process's fork server."""
    server: Any = multiprocessing.forkserver._forkserver
    return int(server._forkserver_pid)


def opened_by_rank(orders: Orders) -> list[str]:
    """On a rank: what it holds open, once it has computed on a GPU where it is to."""
    if isinstance(orders, Job):
        from scalebench.harness import worker

        worker.main(orders)
    return open_devices(os.getpid())


def spec_of(device: Literal["cuda", "cpu"]) -> PlannedRun:
    from tests.gpu.plan import cells, spec_of

    return PlannedRun(spec=spec_of(cells()[0], detect(device), stand_in=device == "cpu"))


@click.command()
@click.argument("device", type=click.Choice(["cuda", "cpu"]))
@click.argument("module", required=False)
def main(device: Literal["cuda", "cpu"], module: str | None) -> None:
    preload = ("scalebench.harness.preload",) if device == "cuda" else ()
    launcher = Launcher(device=device, preload=(*preload, *filter(None, [module])))
    orders: Orders = Job(run=spec_of(device)) if device == "cuda" else Orders()
    told: Callable[[Any], list[str]] = opened_by_rank
    with private_folder() as folder:
        (rank,) = launcher.launch(told, orders, 1, folder, patience=120.0)
    found = {"rank": rank, "fork_server": open_devices(fork_server()), "launcher": open_devices(os.getpid())}
    click.echo(json.dumps(found))


if __name__ == "__main__":
    from tests.gpu import devices

    devices.main()  # of the module by its name, under which ranks find what they are told to call
