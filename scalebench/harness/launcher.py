"""Starting the ranks of one run: torch's elastic agent as an API, over a fork server that has already imported everything.

Each run gets fresh processes, forked from a server in which torch (and DeepSpeed, when a run needs it) is loaded: start-up all
but vanishes and nothing of one run can leak into the next. The server never touches CUDA, so forking from it is safe.
Nothing listens beyond this process: the agent's own meeting goes through a file, and so does the ranks'.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from scalebench.harness import worker
from scalebench.harness.job import Job, Report

StartMethod = Literal["forkserver", "spawn"]

MONITOR_SECONDS = 0.05
SHUTDOWN_SECONDS = 5
IMPORT_ENVIRONMENT = {
    # Importing DeepSpeed asks whether CUDA is there; asked through NVML, the answer leaves no CUDA context behind.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # The agent's meeting point would otherwise be shared with the workers, as a store that listens on every interface.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


class LaunchError(Exception):
    """Some rank ended badly. `failure` is the first that did."""

    def __init__(self, failure: ProcessFailure, logs: Path) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.logs = logs


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Starts runs one after another. One launcher serves one session on one device type.

    Attributes:
        device: `cpu` or `cuda`; decides what DeepSpeed takes for its accelerator at import.
        preload: modules that the fork server imports before its first fork.
        debug: keep the agent's own messages.
    """

    device: str
    start_method: StartMethod = "forkserver"
    preload: tuple[str, ...] = ("scalebench.harness.preload",)
    debug: bool = False

    def launch(self, job: Job, ranks: int, folder: Path) -> list[Report]:
        """Run `job` on `ranks` fresh processes and return their reports by rank.

        `folder` holds the meeting file, the phase and the ranks' logs. Raises LaunchError for the first rank that ended badly,
        KeyboardInterrupt when asked to stop; in every case no process of the run is left.
        """
        config = self._config(ranks, folder)
        with self._environment(), quiet_agent(self.debug):
            self._start_server()
            job = replace(job, folder=folder, launched_ns=time.monotonic_ns())
            try:
                values: dict[int, Any] = elastic_launch(config, worker.main)(job)
            except ChildFailedError as error:
                raise LaunchError(error.get_first_failure()[1], folder / "logs") from error
            except SignalException as error:
                raise KeyboardInterrupt from error
        return [values[rank] for rank in sorted(values)]

    def _config(self, ranks: int, folder: Path) -> LaunchConfig:
        return LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_configs={"store_type": "file", "timeout": 60},
            rdzv_endpoint=str(folder / "agent"),
            max_restarts=0,
            monitor_interval=MONITOR_SECONDS,
            start_method=self.start_method,
            local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs"), redirects=Std.ALL),
            signals_to_handle="SIGTERM,SIGINT,SIGHUP",
        )

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """The variables that must stand when the fork server imports torch and DeepSpeed; taken back afterwards."""
        wanted = IMPORT_ENVIRONMENT | {"DS_ACCELERATOR": self.device}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def _start_server(self) -> None:
        if self.start_method == "forkserver":
            multiprocessing.set_forkserver_preload(list(self.preload))
            multiprocessing.forkserver.ensure_running()


@contextlib.contextmanager
def quiet_agent(debug: bool) -> Iterator[None]:
    """Keep the agent's running commentary (its errors reach the record anyway) off the terminal, unless debugging."""
    logger = logging.getLogger("torch.distributed.elastic")
    before = logger.level
    logger.setLevel(logging.DEBUG if debug else logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of this launch alone, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="scalebench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
