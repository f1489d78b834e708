"""One rank's process around what it is to do: its place in the launch, its logs, and the file that says how it
ended."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from scalebench.harness import shortage
from scalebench.harness.job import Orders, RankFailure
from scalebench.harness.lifeline import announce
from scalebench.harness.stop import SIGNALS

LOOPBACK_ADDRESS = "127.0.0.1"
WHERE_ARE_YOU = signal.SIGUSR1
"""Makes a rank write where its main thread is, even when that thread runs no Python."""
NO_ROOM = os.EX_CANTCREAT
"""Exit code of a rank that could not write into its folder, and so could not say why either."""


def be_rank(main: Callable[[Any], Any], orders: Orders, rank: int, ranks: int) -> NoReturn:
    """Entry point of every rank's process: `main(orders)`, whose value or exception is left in a file."""
    assert orders.folder is not None
    with mute_end():
        announce(orders.folder, rank)
        be_first_to_go()
        hear_signals()
        write_logs(orders.folder, rank)
    os.environ.update(variables(orders.folder, rank, ranks))
    tempfile.tempdir = os.environ["TMPDIR"]
    try:
        ended = main(orders)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a full disk
            traceback.print_exc()
        ended = failure_of(error, rank)
    leave(ended, orders.folder, rank)


@contextlib.contextmanager
def mute_end() -> Iterator[None]:
    """Inside, this process ends by NO_ROOM where something cannot be written."""
    try:
        yield
    except OSError:
        os._exit(NO_ROOM)


def be_first_to_go() -> None:
    """Where memory runs out the kernel kills a rank, whose end is an outcome: not the launcher, which has been growing
    all night, nor the fork server."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def hear_signals() -> None:
    """Those that the fork server is deaf to, but for Ctrl-C: the launcher decides what becomes of that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def variables(folder: Path, rank: int, ranks: int) -> dict[str, str]:
    """What torch's launchers tell a rank, but for a port: the ranks meet through a file. Temporary files go with the
    launch, but for what torch compiled, which later launches use again."""
    compiled = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}"
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return {name: str(value) for name, value in places.items()} | {
        "MASTER_ADDR": LOOPBACK_ADDRESS,
        "TMPDIR": str(folder / "tmp"),
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(compiled)),
    }


def log_file(folder: Path, rank: int, name: str) -> Path:
    """Where `rank` writes its `stdout`, its `stderr`, and its `stack` when it is asked where it is."""
    return folder / "logs" / f"rank{rank}-{name}.log"


def write_logs(folder: Path, rank: int) -> None:
    """Send this process's output, and that of its children, to its log files."""
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        file = log_file(folder, rank, name).open("ab", buffering=0)
        stream.flush()
        os.dup2(file.fileno(), {"stdout": 1, "stderr": 2}[name])
        file.close()
    faulthandler.enable(sys.__stderr__ or sys.stderr)
    stack = log_file(folder, rank, "stack").open("w")
    faulthandler.register(WHERE_ARE_YOU, stack, all_threads=False)


def failure_of(error: BaseException, rank: int) -> RankFailure:
    """What is told of an exception."""
    message = str(error)
    return RankFailure(
        rank=rank,
        kind=type(error).__name__,
        message=message,
        traceback="".join(traceback.format_exception(error)),
        at_ns=time.monotonic_ns(),
        shortage=shortage.of_message(message) if shortage.is_one(type(error).__name__, message) else None,
    )


def result_file(folder: Path, rank: int) -> Path:
    """Where `rank` leaves what it returned, or its RankFailure."""
    return folder / f"result-{rank}"


def leave(ended: object, folder: Path, rank: int) -> NoReturn:
    """Write `ended`, whole or not at all, and end this process without the interpreter's long farewell."""
    unfinished = folder / f"unfinished-{rank}"
    with mute_end():
        unfinished.write_bytes(pickle.dumps(ended))
        unfinished.rename(result_file(folder, rank))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(isinstance(ended, RankFailure))


def result_of(folder: Path, rank: int) -> object:
    """What `rank` left. Raises FileNotFoundError when it has left nothing."""
    return pickle.loads(result_file(folder, rank).read_bytes())
