"""Real runs through the runner: what is recorded, what listens, what is left when a rank is killed."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from scalebench.analysis.steps import MOST_OFF_THE_WALL, job_spans, sum_over_wall, window
from scalebench.errors import UserError
from scalebench.harness.job import Orders
from scalebench.harness.launcher import Launcher
from scalebench.harness.phase import PHASES
from scalebench.harness.runner import execute
from scalebench.records.record import Record
from scalebench.records.store import load_records
from scalebench.spec import PlannedRun, RunSpec
from scalebench.stats.pacing import REFILL_STEPS
from scalebench.stats.within_run import half_width, median_interval
from tests.processes import ROOT, printed

pytestmark = pytest.mark.distributed

TINY_STEPS = 2 + REFILL_STEPS + 5
"""All steps of a `tiny` run: warm-up, those that follow the pause after it, the timed ones."""


def tiny(strategy: str = "ddp", world_size: int = 2, **changes: object) -> RunSpec:
    cores = len(os.sched_getaffinity(0))
    fields: dict[str, object] = {
        "workload": "gpt", "size": "tiny", "data": "synthetic", "strategy": strategy, "device": "cpu",
        "world_size": world_size, "threads_per_rank": 1, "cores_per_rank": 1 if world_size <= cores else None,
        "micro_batch": 2, "warmup_steps": 2, "steps": 5,
    }  # fmt: skip
    return RunSpec.model_validate(fields | changes)


class Watcher:
    """Does something, once, when the run has come to a phase: to see it in a later one, where the first was too short
    to be seen, is as good."""

    def __init__(self, at: str | None = None, action: Callable[[], None] = lambda: None) -> None:
        self.at, self.action = at, action

    def session_started(self, runs: Sequence[PlannedRun]) -> None: ...
    def run_started(self, index: int, run: PlannedRun) -> None: ...
    def run_ended(self, index: int, record: Record, path: Path) -> None: ...

    def phase(self, index: int, phase: str) -> None:
        if self.at and PHASES.index(phase) >= PHASES.index(self.at):
            self.at = None
            self.action()


def ranks_of_this_process() -> list[psutil.Process]:
    """Processes below the fork server (and any spawned directly), the server itself, trackers and keeper left out."""
    own = psutil.Process()
    return [process for process in own.children(recursive=True) if _is_rank(process, own)]


def _is_rank(process: psutil.Process, parent: psutil.Process) -> bool:
    try:
        words = " ".join(process.cmdline())
        is_server = "forkserver" in words and process.parent() == parent
        return not is_server and "resource_tracker" not in words and process.name() != "sh"
    except psutil.NoSuchProcess:  # it has just ended
        return False


def run_one(spec: RunSpec, results: Path, watcher: Watcher | None = None, start_method: str = "forkserver") -> Record:
    ((record, path),) = execute(
        [PlannedRun(spec=spec)],
        results=results,
        progress=watcher or Watcher(),
        start_method=start_method,  # type: ignore[arg-type]
    )
    assert load_records(path).records == [record], "what is returned is what is on disk"
    return record


@pytest.mark.parametrize("start_method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_run_leaves_a_record_of_every_step_of_every_rank(tmp_path: Path, start_method: str) -> None:
    record = run_one(tiny(), tmp_path, start_method=start_method)
    assert (record.status, record.reason) == ("ok", None)
    assert [facts.rank for facts in record.ranks] == [0, 1]
    assert len({facts.pid for facts in record.ranks} | {os.getpid()}) == 3, "fresh processes"
    for facts in record.ranks:
        boundaries = [facts.chunks[0].start_ns, *facts.step_end_ns]
        assert len(facts.step_end_ns) == len(facts.losses) == TINY_STEPS
        assert boundaries == sorted(boundaries)
        assert facts.threads == 1
        assert facts.affinity is not None
        assert len(facts.affinity) == 1
    first, second = record.ranks
    if len(os.sched_getaffinity(0)) > 1:
        assert first.affinity != second.affinity
    assert first.losses != second.losses, "each rank has its own samples"
    latest_start = max(first.chunks[0].start_ns, second.chunks[0].start_ns)
    assert latest_start < min(first.step_end_ns[0], second.step_end_ns[0]), "one clock, one start"
    assert ranks_of_this_process() == []


def test_a_run_of_open_length_stops_when_it_knows_enough_and_all_ranks_agree(tmp_path: Path) -> None:
    open_ended = {"warmup_steps": None, "steps": None, "target_precision": 0.5, "max_seconds": 200.0}
    record = run_one(tiny(**open_ended), tmp_path)
    assert record.window is not None
    assert record.window.stopped == "precise"
    first, second = ([chunk.first_step for chunk in facts.chunks] for facts in record.ranks)
    assert first == second
    assert record.window.first_step in first
    assert math.log2(len(record.ranks[0].step_end_ns)).is_integer(), "it looks where the number of steps has doubled"
    measured = window(record)
    assert measured is not None
    assert measured.step_seconds is not None
    width = half_width(median_interval(measured.step_seconds))
    assert width is not None
    assert width <= 0.5


def test_time_bounds_a_run_that_is_never_precise(tmp_path: Path) -> None:
    record = run_one(tiny(steps=None, target_precision=1e-9, max_seconds=1.0), tmp_path)
    assert record.window is not None
    assert record.window.stopped == "max_seconds"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed_stage_2"])
def test_steps_sum_to_the_wall_clock_of_the_window(tmp_path: Path, strategy: str) -> None:
    """Against another clock, read around the barriers; and what is timed is all of it but the refill."""
    record = run_one(tiny(strategy, steps=100), tmp_path)
    measured, opened = window(record), record.ranks[0].chunks[-1].first_step
    assert measured is not None
    off = sum_over_wall(record)
    assert off is not None
    assert 0 < abs(off) <= MOST_OFF_THE_WALL, "two clocks never agree to the nanosecond"
    spans = job_spans(record.ranks)[opened:]
    assert measured.wall_seconds * 1e9 == pytest.approx((spans[:, 1] - spans[:, 0])[REFILL_STEPS:].sum())


def test_the_same_seed_gives_the_same_losses_and_another_does_not(tmp_path: Path) -> None:
    losses = [run_one(tiny("single", 1, seed=seed), tmp_path).ranks[0].losses for seed in (1, 1, 2)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("phase", ["warm-up", "measuring"])
def test_a_killed_rank_ends_the_run_as_failed_and_leaves_nothing(tmp_path: Path, phase: str) -> None:
    watcher = Watcher(phase, lambda: ranks_of_this_process()[-1].send_signal(signal.SIGKILL))
    record = run_one(tiny(warmup_steps=100, steps=10_000), tmp_path, watcher)
    assert record.status == "failed"
    assert record.reason is not None
    assert "signal 9" in record.reason
    assert ranks_of_this_process() == []
    assert run_one(tiny(), tmp_path).status == "ok", "the next run starts clean"


def test_an_interrupt_is_recorded_and_ends_the_session(tmp_path: Path) -> None:
    watcher = Watcher("measuring", lambda: os.kill(os.getpid(), signal.SIGINT))
    runs = [PlannedRun(spec=tiny(steps=100_000)), PlannedRun(spec=tiny())]
    finished = execute(runs, results=tmp_path, progress=watcher)
    assert [record.status for record, _ in finished] == ["interrupted"]
    assert ranks_of_this_process() == []


class ListeningWatcher(Watcher):
    """Notes in every phase at which addresses this process and those below it listen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def phase(self, index: int, phase: str) -> None:
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                found = process.net_connections("inet")
                self.seen |= {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}


def test_nothing_listens_beyond_loopback(tmp_path: Path) -> None:
    watcher = ListeningWatcher()
    assert run_one(tiny(steps=50), tmp_path, watcher).status == "ok"
    assert watcher.seen <= {"127.0.0.1", "::1"}
    assert watcher.seen, "gloo's ranks listen for each other: if nothing was seen, the looks came too late"


def readiness_to_go(orders: Orders) -> int:
    """By how much the kernel, where memory runs out, prefers this process to others."""
    return int(Path("/proc/self/oom_score_adj").read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says whom it will kill")
def test_where_memory_runs_out_ranks_go_before_their_launcher(tmp_path: Path) -> None:
    own = readiness_to_go(Orders())
    assert Launcher(device="cpu").launch(readiness_to_go, Orders(), 2, tmp_path, patience=280.0) == [1000, 1000]
    assert readiness_to_go(Orders()) == own


def test_workers_load_the_very_same_batches(tmp_path: Path) -> None:
    alone, helped = (run_one(tiny(num_workers=workers), tmp_path) for workers in (0, 2))
    assert helped.status == "ok", helped.reason
    assert [facts.losses for facts in helped.ranks] == [facts.losses for facts in alone.ranks]
    assert {0, 2} <= {rate.num_workers for facts in helped.ranks for rate in facts.loader_rates}


ONE_RUN = """
import sys
from pathlib import Path
from tests.distributed.test_runner import run_one, tiny
if __name__ == "__main__":
    record = run_one(tiny(steps=20), Path(sys.argv[1]))
    print(record.status, record.reason or "")
"""


@pytest.mark.slow
def test_four_sessions_at_once_never_collide(tmp_path: Path) -> None:
    script = tmp_path / "one_run.py"
    script.write_text(ONE_RUN)
    command = [sys.executable, str(script), str(tmp_path / "results")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    sessions = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [session.communicate(timeout=200) for session in sessions]
    assert [out.strip() for out, _ in outputs] == ["ok"] * 4, outputs
    loaded = load_records(tmp_path / "results")
    assert len(loaded.records) == 4
    assert not loaded.damaged


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "one_run.py"
    script.write_text(ONE_RUN.replace('if __name__ == "__main__":', "if True:"))
    assert printed(script, tmp_path / "results").split() == ["ok"]
    assert len(load_records(tmp_path / "results").records) == 1


def test_a_parent_killed_without_warning_takes_its_ranks_along(tmp_path: Path) -> None:
    script = tmp_path / "one_run.py"
    script.write_text(ONE_RUN.replace("steps=20", "steps=1_000_000"))
    session = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    parent = psutil.Process(session.pid)
    deadline = time.monotonic() + 120
    while len(parent.children(recursive=True)) < 5 and time.monotonic() < deadline:
        threading.Event().wait(0.2)
    family = parent.children(recursive=True)
    session.kill()
    session.wait()
    try:
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, [process.cmdline() for process in alive]
    finally:
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()


def test_data_that_will_not_do_is_said_before_anything_runs(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(UserError, match="--data"):
        run_one(tiny(data=f"text:{short}"), tmp_path / "results")
    with pytest.raises(UserError, match="global batch"):
        run_one(tiny(micro_batch=10**9), tmp_path / "results")
    assert not list(tmp_path.glob("results/*/*.json"))


def test_a_run_without_diagnostics_times_its_steps_and_looks_at_nothing_else(tmp_path: Path) -> None:
    record = run_one(tiny(diagnostics=False), tmp_path)
    assert (record.status, record.contract) == ("ok", None)
    assert [len(facts.step_end_ns) for facts in record.ranks] == [TINY_STEPS] * 2
    assert all(facts.phases is facts.communication is None for facts in record.ranks)
