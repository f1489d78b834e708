"""What is shown while runs are measured, on a terminal and in a log."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from scalebench.cli.progress import LineProgress, LiveProgress, SessionProgress, duration, open_progress
from scalebench.records.record import Record
from scalebench.spec import PlannedRun
from tests.unit.factory import make_parity, make_record, make_spec

RUNS = [
    PlannedRun(spec=make_spec(strategy="fsdp", world_size=2), kind="parity"),
    PlannedRun(spec=make_spec(strategy="fsdp", world_size=2)),
    PlannedRun(spec=make_spec(strategy="single")),
    PlannedRun(spec=make_spec(strategy="fsdp", world_size=2), repeat=1),
]
RECORDS: list[Record] = [
    make_parity(RUNS[0].spec, wall_seconds=2.0),
    make_record(RUNS[1].spec, 0.01, wall_seconds=4.0),
    make_record(RUNS[2].spec, status="oom", wall_seconds=6.0),
]
PATH = Path("results/session/record.json")


def play(progress: LineProgress | LiveProgress) -> None:
    """A session whose last run is still measuring."""
    progress.session_started(RUNS)
    for index, record in enumerate(RECORDS):
        progress.run_started(index, RUNS[index])
        progress.phase(index, "measuring")
        progress.run_ended(index, record, PATH)
    progress.run_started(3, RUNS[3])
    progress.phase(3, "warm-up")


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, highlight=False)


def written(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_a_log_gets_plain_lines() -> None:
    screen = console(terminal=False)
    progress = open_progress(console=screen)
    assert isinstance(progress, LineProgress)
    with progress:
        play(progress)
    # 4 samples of 64 tokens per rank in 10 ms on 2 ranks
    assert written(screen).splitlines() == [
        "[1/4] fsdp, 2 ranks, fp32, parity ...",
        "[1/4] ok, 2.0 s, about 6.0 s left",
        "[2/4] fsdp, 2 ranks, fp32, repeat 1 ...",
        "[2/4] ok, 51,200 tokens/s, 4.0 s, about 7.0 s left",
        "[3/4] single, 1 rank, fp32, repeat 1 ...",
        "[3/4] oom, n/a, 6.0 s, about 4.0 s left",
        "[4/4] fsdp, 2 ranks, fp32, repeat 2 ...",
    ]


def test_a_terminal_gets_a_table_of_cells() -> None:
    screen = console(terminal=True)
    progress = open_progress(console=screen)
    assert isinstance(progress, LiveProgress)
    with progress:
        play(progress)
    last = written(screen).rpartition("strategy")[2].splitlines()
    rows = [" ".join(line.split()) for line in last]
    assert "fsdp 2 fp32 1/1 parity ok" in rows
    assert "fsdp 2 fp32 1/2 warm-up 51,200 tokens/s 4.0 s" in rows
    assert "single 1 fp32 1/1 oom n/a" in rows
    assert any("3 of 4 runs, about 4.0 s left" in row for row in rows)


def test_a_resumed_plan_is_shown_whole() -> None:
    screen = console(terminal=True)
    recorded = [(make_record(make_spec(strategy="ddp", size=size), 0.02, wall_seconds=3.0), PATH) for size in "ab"]
    progress = open_progress(recorded, screen)
    with progress:
        play(progress)
    rows = [" ".join(line.split()) for line in written(screen).rpartition("strategy")[2].splitlines()]
    assert "ddp 1 fp32 a 1/1 ok 12,800 tokens/s" in rows, "the size is what tells the two apart"
    assert "fsdp 2 fp32 tiny 1/2 warm-up 51,200 tokens/s 4.0 s" in rows
    assert any("5 of 6 runs, about 4.0 s left" in row for row in rows)
    assert progress.finished[:2] == recorded


def test_a_table_that_is_taller_than_the_terminal_shows_the_rows_around_the_current_run() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, height=10, highlight=False)
    runs = [PlannedRun(spec=make_spec(micro_batch=batch)) for batch in range(1, 31)]
    progress = open_progress(console=screen)
    with progress:
        progress.session_started(runs)
        for index, run in enumerate(runs[:20]):
            progress.run_started(index, run)
            progress.run_ended(index, make_record(run.spec), PATH)
        progress.run_started(20, runs[20])
    last = written(screen).rpartition("strategy")[2].splitlines()
    batches = [int(line.split()[3]) for line in last if "ddp" in line]
    assert 21 in batches
    assert len(batches) == 6
    assert any("24 more cells" in line for line in last)


def test_both_keep_what_ended() -> None:
    for terminal in (False, True):
        progress = open_progress(console=console(terminal))
        with progress:
            play(progress)
        assert progress.finished == [(record, PATH) for record in RECORDS]


def test_nothing_is_foretold_before_a_run_has_ended() -> None:
    progress = SessionProgress()
    progress.session_started(RUNS)
    assert progress.seconds_left() is None
    assert progress.left() == ""


def test_durations_are_written_in_the_unit_that_suits() -> None:
    assert [duration(s) for s in (0.04, 89.9, 90, 5399, 5400)] == ["0.0 s", "89.9 s", "2 min", "90 min", "1.5 h"]
