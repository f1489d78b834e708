"""What a plan already has: stored records of its cells count towards its repeats, and only the rest is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scalebench.harness.fit import is_implied
from scalebench.records.environment import collect, machine_facts
from scalebench.records.record import METHOD, Record, Status
from scalebench.records.store import load_records
from scalebench.spec import PlannedRun


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a plan has come.

    Attributes:
        recorded: what counts towards it, with where it is, in the order of the paths.
        left: the runs still to be made, in the plan's order.
        damaged: files that bear the name of one of its cells and cannot be read, with the reason.
    """

    left: Sequence[PlannedRun]
    recorded: Sequence[tuple[Record, Path]] = ()
    damaged: Sequence[tuple[Path, str]] = field(default=())


def standing(
    runs: Sequence[PlannedRun], results: Path, retry: Collection[Status] = (), *, force: bool = False
) -> Standing:
    """How far the plan `runs` has come by what is under `results`.

    A record counts when its spec and kind are planned, it was made on a machine and by a method like today's (their
    figures would not be pooled otherwise), and its run came to an end: not when it was interrupted, ended in one of
    the ways to `retry` or, with `force`, was only implied. One that is not ok gives way once as many are ok as were
    planned, since it has been retried, and an implied one once as many were made. How many there are counts, not which
    repeats they were.
    """
    if not results.is_dir():
        return Standing(left=runs)
    wanted = {run.key for run in runs}
    stored = load_records(results, {cell_id for cell_id, _ in wanted})
    here = machine_facts(collect()) if stored.records else {}
    ended = [
        (record, path)
        for record, path in zip(stored.records, stored.paths, strict=True)
        if record.key in wanted
        and record.status not in {"interrupted", *retry}
        and not (force and is_implied(record))
        and record.method == METHOD
        and machine_facts(record.environment) == here
    ]
    planned, sound = Counter(run.key for run in runs), Counter(r.key for r, _ in ended if r.status == "ok")
    made = Counter(record.key for record, _ in ended if not is_implied(record))
    recorded = [
        (record, path)
        for record, path in ended
        if record.status == "ok" or (made if is_implied(record) else sound)[record.key] < planned[record.key]
    ]
    counts = Counter(record.key for record, _ in recorded)
    left = [run for run in runs if run.repeat >= counts[run.key]]
    return Standing(left=left, recorded=recorded, damaged=stored.damaged)
