"""One side of a comparison that is measured in turn: a session in a process of its own, under its own interpreter.

    python -m scalebench.harness.side RESULTS SESSION

Reads JSON lines from standard input: first the list of the different runs to come, then one planned run each time it is
this side's turn. Answers each with a JSON line on standard output: `{"path": ...}` of the record, or `{"error": ...}`.
Between its turns it does nothing at all.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TextIO

from pydantic import TypeAdapter

from scalebench.errors import UserError
from scalebench.harness.launcher import LaunchError
from scalebench.harness.runner import Session, check_data
from scalebench.harness.stop import Stop, stoppable
from scalebench.machine import detect
from scalebench.spec import PlannedRun

RUNS = TypeAdapter(list[PlannedRun])


def main(results: Path, session: str, orders: TextIO, answers: TextIO) -> None:
    """Serve until `orders` ends."""
    with stoppable() as stop:
        try:
            side = prepared(results, session, RUNS.validate_json(orders.readline()))
            answer(answers, ready=True)
            for order, line in enumerate(orders):
                answer(answers, path=str(perform(side, order, PlannedRun.model_validate_json(line), stop)))
        except (UserError, LaunchError, OSError) as error:
            answer(answers, error=str(error))


def prepared(results: Path, session: str, runs: list[PlannedRun]) -> Session:
    """A session that has imported everything. Raises UserError for data or a folder that will not do."""
    side = Session(results, runs, detect(runs[0].spec.device), did_not_fit=None, name=session)
    side.prepare()
    check_data(runs)
    side.settle()
    return side


def perform(side: Session, order: int, run: PlannedRun, stop: Stop) -> Path:
    """The record of one run."""
    _, path = side.perform(order, run, lambda phase: None, stop)
    return path


def answer(answers: TextIO, **told: object) -> None:
    """One JSON line."""
    answers.write(json.dumps(told) + "\n")
    answers.flush()


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as answers:  # whatever else is printed belongs to standard error
        os.dup2(2, 1)
        main(Path(sys.argv[1]), sys.argv[2], sys.stdin, answers)
