"""What counts as done of a plan, by records really written to a folder."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from scalebench.analysis.durations import Durations
from scalebench.harness import resume
from scalebench.harness.resume import standing
from scalebench.matrix import plan
from scalebench.records.record import METHOD, ErrorFacts, Record
from scalebench.records.store import load_records, reserved, write_record
from scalebench.spec import PlannedRun
from tests.unit.factory import ENVIRONMENT, make_parity, make_record, make_spec

SPECS = [make_spec(strategy=strategy, world_size=ranks) for strategy in ("ddp", "fsdp") for ranks in (1, 2)]
PLAN = plan(SPECS, 3, 0, parity=True)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is the one of the hand-made records."""
    monkeypatch.setattr(resume, "collect", lambda: ENVIRONMENT)


def store(results: Path, run: PlannedRun, session: str = "s1", **fields: Any) -> Record:
    make = make_parity if run.kind == "parity" else make_record
    record = make(run.spec, **{"session": session, "repeat": run.repeat} | fields)
    write_record(record, results / session)
    return record


def test_without_results_everything_is_left(tmp_path: Path) -> None:
    assert standing(PLAN, tmp_path / "none").left == PLAN
    assert standing(PLAN, tmp_path).left == PLAN


@pytest.mark.parametrize("made", [0, 1, 5, len(PLAN) - 1, len(PLAN)])
def test_a_plan_stopped_anywhere_goes_on_where_it_was(tmp_path: Path, made: int) -> None:
    records = [store(tmp_path, run) for run in PLAN[:made]]
    found = standing(PLAN, tmp_path)
    assert found.left == PLAN[made:]
    assert sorted(r.file_name for r, _ in found.recorded) == sorted(r.file_name for r in records)
    assert all(load_records(path).records == [record] for record, path in found.recorded)


def test_repeats_are_counted_over_sessions_whatever_their_numbers(tmp_path: Path) -> None:
    spec = SPECS[0]
    for session, repeat in (("s1", 0), ("s2", 0), ("s3", 7)):
        store(tmp_path, PlannedRun(spec=spec, repeat=repeat), session)
    left = standing(plan([spec], 5, 0), tmp_path).left
    assert [run.repeat for run in left] == [3, 4]
    assert standing(plan([spec], 2, 0), tmp_path).left == []


@pytest.mark.parametrize("changed", [{"micro_batch": 5}, {"seed": 1}, {"strategy_options": {"static_graph": True}}])
def test_a_changed_spec_is_a_new_cell(tmp_path: Path, changed: dict[str, Any]) -> None:
    for run in PLAN:
        store(tmp_path, run)
    other = plan([make_spec(strategy="ddp", world_size=1, **changed)], 3, 0)
    assert standing(other, tmp_path).left == other


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "interrupted"},
        {"method": METHOD + 1},
        {"environment": ENVIRONMENT | {"torch": "1.0"}},
        {"environment": ENVIRONMENT | {"gpus": ["Another GPU"]}},
    ],
)
def test_what_says_nothing_about_this_machine_does_not_count(tmp_path: Path, fields: dict[str, Any]) -> None:
    run = PlannedRun(spec=SPECS[0])
    store(tmp_path, run, **fields)
    assert standing([run], tmp_path).left == [run]
    assert standing([run], tmp_path).recorded == []


@pytest.mark.parametrize("status", ["failed", "timeout", "oom", "unsupported"])
def test_an_outcome_is_a_result_until_it_is_to_be_tried_again(tmp_path: Path, status: str) -> None:
    runs = plan(SPECS[:1], 3, 0)
    store(tmp_path, runs[0], status=status, reason="so it ended")
    store(tmp_path, runs[1])
    assert standing(runs, tmp_path).left == runs[2:]
    assert len(standing(runs, tmp_path, [status]).left) == 2  # type: ignore[list-item]
    assert [r.status for r, _ in standing(runs, tmp_path, [status]).recorded] == ["ok"]  # type: ignore[list-item]


def test_what_was_retried_gives_way_once_the_plan_is_full(tmp_path: Path) -> None:
    runs = plan(SPECS[:1], 2, 0)
    for session, status in (("s1", "failed"), ("s2", "ok"), ("s3", "failed")):
        store(tmp_path, runs[0], session, status=status, reason="so it ended")
    assert [record.status for record, _ in standing(runs, tmp_path).recorded] == ["failed", "ok", "failed"]
    store(tmp_path, runs[1], "s4")
    found = standing(runs, tmp_path)
    assert [record.status for record, _ in found.recorded] == ["ok", "ok"]
    assert found.left == []


def test_what_was_only_implied_is_run_when_forced(tmp_path: Path) -> None:
    run, made = plan(SPECS[:2], 1, 0)
    store(tmp_path, run, status="oom", reason="implied: a smaller one did not fit")
    error = ErrorFacts(rank=0, kind="OutOfMemoryError", message="out of memory")
    store(tmp_path, made, status="oom", reason="rank 0: out of memory", error=error)
    assert standing([run, made], tmp_path).left == []
    assert standing([run, made], tmp_path, force=True).left == [run]
    store(tmp_path, run, "s2", status="oom", reason="rank 0: out of memory", error=error)
    assert [record.error for record, _ in standing([run, made], tmp_path).recorded] == [error, error]


def test_a_damaged_record_is_told_and_measured_again(tmp_path: Path) -> None:
    run, other = PLAN[0], PLAN[1]
    (tmp_path / "s1").mkdir()
    (tmp_path / "s1" / make_parity(run.spec).file_name).write_text("{")
    (tmp_path / "s1" / make_parity(SPECS[3]).file_name).write_text("{")
    found = standing([run, other], tmp_path)
    assert found.left == [run, other]
    assert [path.name for path, _ in found.damaged] == [make_parity(run.spec).file_name]


def test_only_records_of_the_plan_are_opened(tmp_path: Path) -> None:
    for run in PLAN:
        store(tmp_path, run)
    (tmp_path / "report.json").write_text("[]")
    loaded = load_records(tmp_path, {SPECS[0].cell_id})
    assert {record.spec for record in loaded.records} == {SPECS[0]}
    assert len(loaded.records) == 4
    assert not loaded.damaged


def hold(folder: Path, ready: Any, seconds: float) -> None:
    with reserved(folder, lambda: None):
        ready.set()
        time.sleep(seconds)


def test_the_second_waits_for_the_first_even_if_that_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, told = context.Event(), []
    first = context.Process(target=hold, args=(tmp_path, ready, 300))
    first.start()
    assert ready.wait(60)

    def waiting() -> None:
        told.append("waiting")
        first.kill()

    with reserved(tmp_path, waiting):
        assert told == ["waiting"]
        assert not first.is_alive() or not first.join(10)
    with reserved(tmp_path, waiting):
        assert told == ["waiting"], "free again"
    assert list(tmp_path.iterdir()) == []


def test_the_rest_takes_as_long_as_runs_of_the_same_cell_did() -> None:
    ddp, fsdp, other = (PlannedRun(spec=spec).key for spec in SPECS[:3])
    durations = Durations([make_record(SPECS[0], wall_seconds=seconds) for seconds in (2.0, 4.0)])
    assert durations.together({ddp: 2}) == 6.0
    assert durations.of(fsdp) is None
    durations.add(make_record(SPECS[1], wall_seconds=9.0))
    durations.add(make_record(SPECS[2], wall_seconds=99.0, status="interrupted"))
    assert durations.together({ddp: 1, fsdp: 1, other: 1}) == 3.0 + 9.0 + 6.0
    assert Durations().together({ddp: 1}) is None
