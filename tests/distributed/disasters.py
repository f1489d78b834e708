"""What becomes of whole sweeps: stopped, killed, without room to write, beside another, with damaged records.

Each is `scalebench run` on a plan of some cells, disturbed from outside and then asked for again: the second time must
bring the plan to exactly the set of records that an undisturbed one has, and keep what was stored before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalebench.errors import EXIT_CELL_NOT_OK, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from scalebench.records.record import Record
from scalebench.records.store import load_records
from tests.distributed.sweeps import Sweep

REPEATS = 3
PLAN = """
[run]
device = "cpu"
strategy = "{strategy}"
gpus = 2
precision = "fp32"
data = "synthetic"
micro_batch = {micro_batch}
warmup_steps = 2
steps = 50
repeats = {repeats}
baseline = false
timeout = 60

[run.set.workload]
num_layers = 1
hidden_size = 32
num_heads = 2
context_length = 16
vocab_size = {vocab_size}
"""
TMPFS_BYTES = 2**20
MEMORY_LIMIT_BYTES = 3 * 2**29
ADDRESS_LIMIT_BYTES = 3 * 2**30
"""What a sweep, its fork server and its ranks need is below; the logits of a thousand samples are not."""
MEMORY = Path("/sys/fs/cgroup/memory")


class Stage:
    """A plan of one cell, or of one per micro-batch, and the sweeps that carry it out in one results folder."""

    def __init__(self, strategy: str, folder: Path, *, micro_batch: str = "1", vocab_size: int = 256) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.results = folder, folder / "results"
        self.wrong: list[str] = []
        fields = {"strategy": strategy, "micro_batch": micro_batch, "vocab_size": vocab_size, "repeats": REPEATS}
        (folder / "plan.toml").write_text(PLAN.format(**fields))

    def sweep(
        self, *, prepare: Callable[[], object] | None = None, variables: Mapping[str, str] | None = None
    ) -> Sweep:
        """The plan, begun or gone on with."""
        command = ["run", "--config", str(self.folder / "plan.toml"), "--results", str(self.results)]
        return Sweep(self.folder, command=command, prepare=prepare, variables=variables)

    def check(self, truth: bool, said: str) -> None:
        """Note `said` unless it is true."""
        if not truth:
            self.wrong.append(said)

    def ended(self, sweep: Sweep, code: int, *, killed: bool = False) -> None:
        """It must have ended with `code`, have left nothing and shown no traceback."""
        got = sweep.wait()
        self.check(got == code, f"exit code {got}, not {code}: {sweep.errors()[-400:]}")
        self.check("Traceback" not in sweep.errors(), f"a traceback: {sweep.errors()[-800:]}")
        self.check(not (left := sweep.left()), f"left: {left}")

    def kept(self) -> dict[Path, str]:
        """What is stored, by content."""
        files = (file for file in self.results.rglob("*.json") if file.is_file())
        return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def finish(self, before: Mapping[Path, str], expected: Mapping[str, int] | None = None) -> None:
        """Ask for the plan again: it must come to the same final set, and keep what it had `before`."""
        expected = expected or {"ok": REPEATS}
        with self.sweep() as sweep:
            self.ended(sweep, EXIT_OK if set(expected) == {"ok"} else EXIT_CELL_NOT_OK)
        self.check(before.items() <= self.kept().items(), "records of before were lost or changed")
        got = Counter(record.status for record in self.records() if record.status != "interrupted")
        self.check(got == Counter(expected), f"in the end {dict(got)}, not {dict(expected)}")

    def stopped_by(self, by: signal.Signals) -> None:
        """One run at most is not whole, and says what stopped it; the sweep is made whole."""
        statuses = Counter(record.status for record in self.records())
        self.check(set(statuses) <= {"ok", "interrupted"} and statuses["interrupted"] <= 1, f"got {dict(statuses)}")
        reasons = [record.reason or "" for record in self.records() if record.status == "interrupted"]
        self.check(all(by.name in reason for reason in reasons), f"the reason is {reasons}")
        self.finish(self.kept())

    def records(self) -> list[Record]:
        return load_records(self.results).records if self.results.exists() else []

    def until(self, reached: Callable[[], object], what: str, seconds: float = 240.0) -> None:
        """Wait for something to happen."""
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not happen in {seconds:g} s")
            time.sleep(0.005)


def ctrl_c(stage: Stage) -> None:
    """At a random moment after the start, imports included."""
    with stage.sweep() as sweep:
        time.sleep(random.uniform(0.2, 8.0))
        sweep.interrupt()
        code = sweep.wait()
        if code == -signal.SIGINT:  # Python was still starting: nothing of ours ran
            stage.check(not sweep.left(), "left something")
        elif code != EXIT_OK:
            stage.ended(sweep, EXIT_INTERRUPTED)
    stage.finish(stage.kept())


def ctrl_c_in_a_run(stage: Stage) -> None:
    with stage.sweep() as sweep:
        stage.until(stage.records, "a first record")
        sweep.pid(0)
        sweep.interrupt()
        stage.ended(sweep, EXIT_INTERRUPTED)
    stage.check(any(record.status == "interrupted" for record in stage.records()), "the stopped run has no record")
    stage.finish(stage.kept())


def ctrl_c_twice(stage: Stage) -> None:
    with stage.sweep() as sweep:
        sweep.pid(0)
        sweep.interrupt()
        time.sleep(random.uniform(0, 0.3))
        sweep.interrupt()
        stage.ended(sweep, EXIT_INTERRUPTED)
    stage.finish(stage.kept())


def terminated(stage: Stage) -> None:
    """As a batch system ends a job: SIGTERM to the process alone."""
    with stage.sweep() as sweep:
        sweep.pid(0)
        sweep.process.terminate()
        stage.ended(sweep, EXIT_INTERRUPTED)
    stage.stopped_by(signal.SIGTERM)


def group_terminated(stage: Stage) -> None:
    """As `timeout` does, and some batch systems: the fork server, which belongs to the group, must not go first."""
    with stage.sweep() as sweep:
        sweep.pid(0)
        sweep.interrupt(signal.SIGTERM)
        stage.ended(sweep, EXIT_INTERRUPTED)
    stage.stopped_by(signal.SIGTERM)


def terminal_closed(stage: Stage) -> None:
    with stage.sweep() as sweep:
        sweep.pid(0)
        sweep.interrupt(signal.SIGHUP)
        stage.ended(sweep, EXIT_INTERRUPTED)
    stage.stopped_by(signal.SIGHUP)


def launcher_killed(stage: Stage) -> None:
    """Its ranks, one of which is stopped, its fork server and its temporary files must go."""
    with stage.sweep() as sweep:
        stage.until(stage.records, "a first record")
        os.kill(sweep.pid(1), signal.SIGSTOP)
        sweep.process.kill()
        stage.ended(sweep, -signal.SIGKILL)
    stage.finish(stage.kept())


def server_killed(stage: Stage) -> None:
    with stage.sweep() as sweep:
        sweep.pid(1)
        os.kill(next(p.pid for p in sweep.family() if "forkserver" in " ".join(p.cmdline())), signal.SIGKILL)
        stage.ended(sweep, EXIT_CELL_NOT_OK)
    failed = [record for record in stage.records() if record.status == "failed"]
    stage.check(len(failed) == 1, f"{len(failed)} runs failed")
    stage.check(all("fork server" in (record.reason or "") for record in failed), "the fork server is not named")
    stage.finish(stage.kept(), {"ok": REPEATS - len(failed), "failed": len(failed)})


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of a megabyte at `path`."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def disk_full(stage: Stage) -> None:
    with small_disk(stage.results):
        unwritable(stage, *filling(stage.results))


def disk_full_for_all(stage: Stage) -> None:
    """Where temporary files are on the same disk: the run under way fails, as its ranks cannot leave their results."""
    with tempfile.TemporaryDirectory(prefix="disk-", dir="/tmp") as folder, small_disk(Path(folder) / "d"):
        disk = Path(folder) / "d"
        stage.results = disk / "results"
        unwritable(stage, *filling(disk), variables={"TMPDIR": str(disk)})
        left = [path.name for path in disk.iterdir() if not path.name.startswith(("results", "torchinductor_"))]
        stage.check(not left, f"left: {left}")


def filling(disk: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """What fills `disk` to its last byte, and what makes room again."""
    filler = disk / "filler"

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)

    return fill, filler.unlink


def read_only(stage: Stage) -> None:
    def remount(mode: str) -> Callable[[], object]:
        return lambda: subprocess.run(["mount", "-o", f"remount,{mode}", stage.results], check=True)

    with small_disk(stage.results):
        unwritable(stage, remount("ro"), remount("rw"))


def unwritable(
    stage: Stage,
    spoil: Callable[[], object],
    mend: Callable[[], object],
    variables: Mapping[str, str] | None = None,
) -> None:
    """The record that finds no place is put elsewhere and said where; put back, it counts."""
    with stage.sweep(variables=variables) as sweep:
        stage.until(stage.records, "a first record")
        spoil()
        stage.ended(sweep, EXIT_USAGE)
        saved = {Path(word.rstrip(";.")) for word in sweep.errors().split() if "scalebench-rescued-" in word}
        rescued = {path.name: path.read_bytes() for path in saved}
        for path in saved:
            shutil.rmtree(path.parent)
    stage.check(len(rescued) == 1, f"{len(rescued)} records were rescued")
    mend()
    for name, content in rescued.items():
        (stage.results / "rescued").mkdir()
        (stage.results / "rescued" / name).write_bytes(content)
    failed = [record.reason or "" for record in stage.records() if record.status == "failed"]
    stage.check(all("disk is full" in reason for reason in failed), f"the full disk is not named: {failed}")
    stage.finish(stage.kept(), {"ok": REPEATS - len(failed)} | ({"failed": len(failed)} if failed else {}))


def damaged(stage: Stage) -> None:
    """A truncated record, one of noise, and a folder with a record's name."""
    with stage.sweep() as sweep:
        stage.ended(sweep, EXIT_OK)
    first, second, third = sorted(stage.results.rglob("*.json"))
    sound = {third: stage.kept()[third]}
    first.write_bytes(first.read_bytes()[:100])
    second.write_bytes(os.urandom(1000))
    (stage.results / "folder.json").mkdir()
    stage.finish(sound)


def two_at_once(stage: Stage) -> None:
    with stage.sweep() as one, stage.sweep() as other:
        stage.ended(one, EXIT_OK)
        stage.ended(other, EXIT_OK)
    stage.check(len(stage.records()) == REPEATS, f"{len(stage.records())} records of {REPEATS}")
    stage.finish(stage.kept())


def port_in_use(stage: Stage) -> None:
    """One that the environment names as the ranks' meeting point."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with stage.sweep(variables={"MASTER_PORT": str(taken.getsockname()[1])}) as sweep:
            stage.ended(sweep, EXIT_OK)
    stage.finish(stage.kept())


def stale_build_locks(stage: Stage) -> None:
    """As killed builds of DeepSpeed's operators leave them."""
    extensions = stage.folder / "extensions"
    for name in ("deepspeed_shm_comm", "cpu_adam", "fused_adam", "utils", "async_io"):
        for folder in (extensions / name, extensions / "py311_cpu" / name):
            folder.mkdir(parents=True)
            (folder / "lock").touch()
    with stage.sweep(variables={"TORCH_EXTENSIONS_DIR": str(extensions)}) as sweep:
        stage.ended(sweep, EXIT_OK)
    stage.finish(stage.kept())


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """A control group (version 1) with a limit, below this process's own."""
    own = next(
        line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line
    )
    group = MEMORY / own.lstrip("/") / f"scalebench-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield group
    finally:
        group.rmdir()


def killed_by_a_memory_limit(stage: Stage) -> None:
    with memory_group(MEMORY_LIMIT_BYTES) as group:
        join = lambda: (group / "cgroup.procs").write_text(str(os.getpid()))  # noqa: E731
        too_large(stage, join, r"rank \d: OutOfMemory: .*the limit is 1.5 GiB")


def refused_by_a_memory_limit(stage: Stage) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_LIMIT_BYTES,) * 2)  # noqa: E731
    too_large(stage, limit, r"rank \d: RuntimeError: .*[\d.]+ GiB asked, [\d.]+ \w+ free of 3 GiB")


def too_large(stage: Stage, prepare: Callable[[], object], reason: str) -> None:
    """Two micro-batches of three do not fit; once it is known of the smaller one, the larger is not tried."""
    with stage.sweep(prepare=prepare) as sweep:
        stage.ended(sweep, EXIT_CELL_NOT_OK)
    reasons = [record.reason or "" for record in stage.records() if record.status == "oom"]
    wrong = [said for said in reasons if not re.search(reason, said) and not said.startswith("implied: ")]
    stage.check(not wrong, f"reasons {wrong}")
    stage.check(any(said.startswith("implied: ") for said in reasons), "nothing was implied")
    stage.finish(stage.kept(), {"ok": REPEATS, "oom": 2 * REPEATS})


@dataclass(frozen=True, kw_only=True)
class Disaster:
    """What happens to a sweep. `needs_root` for those that mount, or make control groups."""

    name: str
    happens: Callable[[Stage], None]
    micro_batch: str = "1"
    vocab_size: int = 256
    needs_root: bool = False


TOO_LARGE: dict[str, Any] = {"micro_batch": "[1, 1000, 2000]", "vocab_size": 50304}
DISASTERS = (
    Disaster(name="Ctrl-C at a random moment", happens=ctrl_c),
    Disaster(name="Ctrl-C in a run", happens=ctrl_c_in_a_run),
    Disaster(name="Ctrl-C twice", happens=ctrl_c_twice),
    Disaster(name="SIGTERM", happens=terminated),
    Disaster(name="SIGTERM of the group", happens=group_terminated),
    Disaster(name="a closing terminal", happens=terminal_closed),
    Disaster(name="SIGKILL of the launcher, a rank stopped", happens=launcher_killed),
    Disaster(name="SIGKILL of the fork server", happens=server_killed),
    Disaster(name="disk full", happens=disk_full, needs_root=True),
    Disaster(name="disk full, temporary files too", happens=disk_full_for_all, needs_root=True),
    Disaster(name="results folder read-only", happens=read_only, needs_root=True),
    Disaster(name="killed by a memory limit", happens=killed_by_a_memory_limit, needs_root=True, **TOO_LARGE),
    Disaster(name="refused by a memory limit", happens=refused_by_a_memory_limit, **TOO_LARGE),
    Disaster(name="damaged records", happens=damaged),
    Disaster(name="two sweeps at once", happens=two_at_once),
    Disaster(name="port in use", happens=port_in_use),
    Disaster(name="stale build locks", happens=stale_build_locks),
)


def befall(disaster: Disaster, strategy: str, folder: Path) -> list[str]:
    """Let `disaster` happen to a sweep of `strategy`; what was not as it must be."""
    stage = Stage(strategy, folder, micro_batch=disaster.micro_batch, vocab_size=disaster.vocab_size)
    try:
        disaster.happens(stage)
    except (AssertionError, subprocess.SubprocessError) as error:
        stage.wrong.append(f"{type(error).__name__}: {error}")
    return stage.wrong
