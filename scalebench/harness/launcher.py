"""Starting the ranks of one run: torch's elastic agent as an API, over a fork server that has already imported
everything.

Each run gets fresh processes, forked from a server in which torch (and DeepSpeed, when a run needs it) is loaded:
    start-up all but vanishes and nothing of one run can leak into the next. The server never touches CUDA, so forking
    from it is safe.
Nothing listens beyond loopback: the agent has nobody to meet, and the ranks meet through a file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from scalebench.harness import rendezvous
from scalebench.harness.job import Orders, RankFailure
from scalebench.harness.lifeline import RankProcesses
from scalebench.harness.phase import PHASE_FILE

StartMethod = Literal["forkserver", "spawn"]
Told = TypeVar("Told", bound=Orders)
Result = TypeVar("Result")

AGENT_LOGGERS = "torch.distributed.elastic"
MONITOR_SECONDS = 0.1
"""Between two looks at the ranks: as torchrun, since each takes a moment of a core that a rank may be using."""
PHASE_POLL_SECONDS = 0.1
SHUTDOWN_SECONDS = 5
IMPORT_ENVIRONMENT = {
    # Importing DeepSpeed asks whether CUDA is there; asked through NVML, the answer leaves no CUDA context behind.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


class LaunchError(Exception):
    """Some rank ended badly. `failure` is the cause; what the others ended with follows from it."""

    def __init__(self, failure: RankFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


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

    def launch(
        self,
        main: Callable[[Told], Result | None],
        orders: Told,
        ranks: int,
        folder: Path,
        on_phase: Callable[[str], None] = lambda phase: None,
    ) -> list[Result]:
        """Call `main` (importable, under torch's `record`) on `ranks` fresh processes; what each returned, by rank.

        `on_phase` is told each phase that rank 0 enters, from another thread. `folder` holds the meeting file, the
        phase and the ranks' logs. Raises LaunchError for the first rank that ended badly,
        KeyboardInterrupt when asked to stop; in every case no process of the run is left.
        """
        config = self._config(ranks, folder)
        with self._environment(), hidden_main_module(), quiet_agent(self.debug):
            self._start_server()
            processes = RankProcesses(folder)
            orders = replace(orders, folder=folder, launched_ns=time.monotonic_ns(), launcher_pid=os.getpid())
            try:
                with watched_phase(folder, processes, on_phase):
                    values: dict[int, Any] = elastic_launch(config, main)(orders)
            except ChildFailedError as error:
                raise LaunchError(cause_of(error, folder, ranks, processes)) from error
            except SignalException as error:
                raise KeyboardInterrupt from error
        return [values[rank] for rank in sorted(values)]

    def _config(self, ranks: int, folder: Path) -> LaunchConfig:
        return LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=uuid.uuid4().hex,
            rdzv_backend=rendezvous.BACKEND,
            max_restarts=0,
            monitor_interval=MONITOR_SECONDS,
            start_method=self.start_method,
            logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs"), redirects=Std.ALL),
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
            with contextlib.nullcontext() if self.debug else silenced_stderr():
                multiprocessing.forkserver.ensure_running()


def cause_of(error: ChildFailedError, folder: Path, ranks: int, processes: RankProcesses) -> RankFailure:
    """The failure that came first.

    The agent reports the lowest rank among those it finds dead, but a killed rank says nothing while its neighbours
    raise
    connection errors: a signal other than the agent's own SIGTERM goes before any exception, the earliest exception
        before the rest.
    """
    for rank in range(ranks):
        code = processes.exit_code(rank)
        if code is not None and code < 0 and code != -signal.SIGTERM and not error_file(folder, rank):
            return RankFailure(rank=rank, message=f"Killed: by signal {-code} ({signal.Signals(-code).name})")
    raised = [failure for rank in range(ranks) if (failure := read_failure(folder, rank))]
    if raised:
        return min(raised, key=lambda failure: failure.raised_ns)
    reported = error.get_first_failure()[1]
    return RankFailure(rank=reported.local_rank, message=exit_message(reported.exitcode))


def exit_message(code: int) -> str:
    """`Killed: ...` or `Exited: ...` for an exit code."""
    return f"Killed: by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"Exited: with code {code}"


def error_file(folder: Path, rank: int) -> Path | None:
    """The file in which `rank` left its exception, if it raised one."""
    return next(folder.glob(f"logs/*/attempt_0/{rank}/error.json"), None)


def read_failure(folder: Path, rank: int) -> RankFailure | None:
    """What `rank` raised, as the agent's error file has it."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        file = error_file(folder, rank) or folder / "none"
        content = json.loads(file.read_text())["message"]
        return RankFailure(
            rank=rank,
            message=content["message"],
            traceback=content["extraInfo"]["py_callstack"],
            raised_ns=file.stat().st_mtime_ns,
        )
    return None


@contextlib.contextmanager
def watched_phase(folder: Path, processes: RankProcesses, report: Callable[[str], None]) -> Iterator[None]:
    """While inside, tell `report` each phase that rank 0 notes in `folder`; remember the ranks' processes at the
    first."""
    done = threading.Event()

    def watch() -> None:
        last = ""
        while not done.wait(PHASE_POLL_SECONDS):
            with contextlib.suppress(OSError):
                phase = (folder / PHASE_FILE).read_text()
                if phase and phase != last:
                    if not last:
                        processes.remember()
                    report(phase)
                    last = phase

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


@contextlib.contextmanager
def silenced_stderr() -> Iterator[None]:
    """Processes started inside have no standard error: the server's own words (about ranks that were stopped while
    starting, say) are for nobody; the ranks' output goes to their logs anyway."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def quiet_agent(debug: bool) -> Iterator[None]:
    """Keep the agent's running commentary (its errors reach the record anyway) off the terminal, unless debugging."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith(AGENT_LOGGERS)]
    before = [logger.level for logger in loggers]
    for logger in loggers:  # each has a level of its own, so that their parent's would not reach them
        logger.setLevel(logging.DEBUG if debug else logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def hidden_main_module() -> Iterator[None]:
    """Keep multiprocessing from running this process's main module again in every rank: a rank needs nothing of it.

    That would cost each rank its imports, and would start a user's script over that has no `if __name__ == "__main__"`.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of this launch alone, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="scalebench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
