"""A sweep in a process of its own, watched and disturbed from outside.

As a program, `python -m tests.distributed.sweeps RESULTS`, it is that sweep: it reads planned runs as JSON lines from
its standard input and tells what happens as JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from scalebench.errors import EXIT_INTERRUPTED, EXIT_USAGE, UserError
from scalebench.records.record import Record
from scalebench.records.store import load_records
from scalebench.spec import PlannedRun
from tests.processes import ROOT

MARK = "SCALEBENCH_TEST_SWEEP"


class Sweep:
    """A running sweep; everything it starts carries a mark of its own, so that what is left can be found.

    Its results go to `folder`/results, its temporary files to a folder whose path is short enough for sockets.
    """

    def __init__(
        self,
        folder: Path,
        *,
        runs: Sequence[PlannedRun] = (),
        command: Sequence[str] = (),
        prepare: Callable[[], object] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`runs` by this module as a program, or else `scalebench` with `command`; `prepare` is called in its process,
        before it begins."""
        self.results, self.temporary = folder / "results", Path(tempfile.mkdtemp(prefix="sweep-", dir="/tmp"))
        folder.mkdir(parents=True, exist_ok=True)
        self.output = ""
        self._stderr = self.temporary.with_suffix(".err")
        self._mark = uuid.uuid4().hex
        own = {MARK: self._mark, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *(("scalebench", *command) if command else (__name__, str(self.results)))],
            env=os.environ | own | dict(variables or {}),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr.open("w"),
            text=True,
            start_new_session=True,
            preexec_fn=partial(as_in_a_terminal, prepare),
        )
        assert self.process.stdin is not None
        self.process.stdin.writelines(run.model_dump_json() + "\n" for run in runs)
        self.process.stdin.close()
        self.process.stdin = None  # communicate() would flush it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in [*self.family()]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()
        shutil.rmtree(self.temporary)
        self._stderr.unlink()

    def events(self) -> Iterator[dict[str, Any]]:
        """What it tells, as it happens, until it has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)
        self.process.wait()

    def errors(self) -> str:
        """What it wrote to its standard error."""
        return self._stderr.read_text()

    def pid(self, rank: int, seconds: float = 120.0) -> int:
        """The process of `rank` of the run under way, as soon as there is one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            for file in self.temporary.glob(f"scalebench-*/*/pid-{rank}"):
                with contextlib.suppress(ValueError, OSError):
                    return int(file.read_text())
            time.sleep(0.001)
        raise AssertionError(f"rank {rank} did not start in {seconds:g} s: {self.errors()}")

    def family(self) -> Iterator[psutil.Process]:
        """All processes that carry the mark."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark:
                    yield process

    def left(self, seconds: float = 30.0) -> list[str]:
        """What is still there `seconds` after it ended, or sooner if nothing is: processes and temporary files.

        What torch compiled and what was rescued is kept on purpose.
        """
        deadline = time.monotonic() + seconds
        while (found := [*self._processes(), *self._files()]) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def _files(self) -> list[str]:
        kept = ("torchinductor_", "scalebench-rescued-")
        return [path.name for path in self.temporary.iterdir() if not path.name.startswith(kept)]

    def _processes(self) -> Iterator[str]:
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                yield f"{process.pid} {process.status()} {' '.join(process.cmdline())}"

    def wait(self, seconds: float = 300.0) -> int:
        """Its exit code, once it has ended."""
        self.output, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode

    def records(self) -> list[Record]:
        """Everything it has stored, in the order in which it ran."""
        loaded = load_records(self.results)
        assert not loaded.damaged, loaded.damaged
        return sorted(loaded.records, key=lambda record: (record.session, record.order))

    def interrupt(self, by: signal.Signals = signal.SIGINT) -> None:
        """Ctrl-C, as a terminal sends it, or another signal to the whole foreground group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, by)


def as_in_a_terminal(prepare: Callable[[], object] | None) -> None:
    """Hear what a script's background and `nohup` ignore, and hand on; then `prepare`."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_DFL)
    if prepare:
        prepare()


class Teller:
    """Progress as JSON lines."""

    def session_started(self, runs: Sequence[PlannedRun]) -> None:
        tell(event="session")

    def run_started(self, index: int, run: PlannedRun) -> None:
        tell(event="run", index=index)

    def phase(self, index: int, phase: str) -> None:
        tell(event="phase", index=index, phase=phase)

    def run_ended(self, index: int, record: Record, path: Path) -> None:
        tell(event="ended", index=index, status=record.status, path=str(path))


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)  # noqa: T201


def main(results: Path) -> int:
    from scalebench.harness.runner import execute

    runs = [PlannedRun.model_validate_json(line) for line in sys.stdin]
    try:
        finished = execute(runs, results=results, progress=Teller())
    except UserError as error:
        tell(event="error", message=str(error))
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_INTERRUPTED if finished[-1][0].status == "interrupted" else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
