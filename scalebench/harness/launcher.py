"""Starting the ranks of one run: fresh processes, forked from a server that has already imported everything.

Start-up all but vanishes, and nothing of one run can leak into the next. The server never touches CUDA, so forking
from it is safe. The ranks meet through a file: no port is chosen, and nothing listens beyond loopback.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from scalebench.harness.job import Orders, RankFailure
from scalebench.harness.lifeline import temporary_files_inside
from scalebench.harness.phase import Pulse
from scalebench.harness.rank import be_rank
from scalebench.harness.stop import SIGNALS
from scalebench.harness.supervision import Launch, Supervised

StartMethod = Literal["forkserver", "spawn"]
Told = TypeVar("Told", bound=Orders)
Result = TypeVar("Result")

SERVER_SECONDS = 120.0
"""How long the fork server may take at least: its imports come once, and from a slow disk they take long."""
IMPORT_ENVIRONMENT = {
    # Importing DeepSpeed asks whether CUDA is there; asked through NVML, the answer leaves no CUDA context behind.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


class LaunchError(Exception):
    """Some rank ended badly. `failure` is the cause; what the others ended with follows from it."""

    def __init__(self, failure: RankFailure) -> None:
        super().__init__(f"{failure.kind}: {failure.message}")
        self.failure = failure


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Starts runs one after another. One launcher serves one session on one device type.

    Attributes:
        device: `cpu` or `cuda`; decides what DeepSpeed takes for its accelerator at import.
        preload: modules that the fork server imports before its first fork.
        debug: keep what the fork server says on standard error.
    """

    device: str
    start_method: StartMethod = "forkserver"
    preload: tuple[str, ...] = ("scalebench.harness.preload",)
    debug: bool = False

    def prepare(self) -> None:
        """Start the fork server, which goes on importing by itself; otherwise the first launch starts it."""
        with self._environment(), hidden_main_module():
            self._start_server()

    def launch(
        self,
        main: Callable[[Told], Result],
        orders: Told,
        ranks: int,
        folder: Path,
        *,
        patience: float,
        on_phase: Callable[[str], None] = lambda phase: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> list[Result]:
        """Call `main` (importable) on `ranks` fresh processes; what each returned, by rank.

        `folder` is for this launch alone: the ranks meet there and leave their logs. `on_phase` is told each phase
        that rank 0 enters. Raises LaunchError for the first rank that ended badly, or when for `patience` seconds no
        rank has moved; KeyboardInterrupt once `stopping` is true. In every case no process of the run is left.
        """
        pulse, launch = Pulse(ranks), Launch()
        orders = replace(orders, folder=folder, launched_ns=time.monotonic_ns(), pulse=pulse)
        for name in ("logs", "tmp"):
            (folder / name).mkdir()
        try:
            with self._environment(), hidden_main_module(), bounded_server(max(patience, SERVER_SECONDS)):
                self._start_server()
                for rank in range(ranks):
                    launch.add(Supervised(rank, self._start(main, orders, rank, ranks), folder, pulse))
            failure = launch.watch(patience, on_phase, stopping)
        finally:
            launch.end()
        if failure:
            raise LaunchError(failure)
        return launch.results()

    def _start(self, main: Callable[[Told], Result], orders: Told, rank: int, ranks: int) -> BaseProcess:
        context: Any = multiprocessing.get_context(self.start_method)
        process: BaseProcess = context.Process(target=be_rank, args=(main, orders, rank, ranks))
        try:
            process.start()
        except (OSError, EOFError) as error:
            said = f"rank {rank} could not be started, {type(error).__name__}: {error}"
            raise LaunchError(RankFailure(rank=rank, kind="Exited", message=said)) from error
        return process

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
            multiprocessing.resource_tracker.ensure_running()  # started with the server it would undo its deafness
            loud = contextlib.nullcontext() if self.debug else silenced_stderr()
            with loud, deaf_to_interrupts(), temporary_files_inside():
                multiprocessing.forkserver.ensure_running()


@contextlib.contextmanager
def bounded_server(seconds: float) -> Iterator[None]:
    """While inside, a fork server that does not answer for `seconds` is killed: asking it then fails."""
    timer = threading.Timer(seconds, kill_server)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def kill_server() -> None:
    """Kill this process's fork server; the next launch starts another."""
    server: Any = multiprocessing.forkserver._forkserver  # there is no public way to its process
    if server._forkserver_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started inside never notice a Ctrl-C, a closing terminal or a batch system's SIGTERM, which may reach
    all of a process group: the launcher decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
