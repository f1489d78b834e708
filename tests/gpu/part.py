"""One part: its tasks one after another as long as its time lasts, each with a note of how it ended, and an archive."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from tests.gpu.plan import Part, Task, tasks

ROOT = Path(__file__).parents[2]
LEAVING_SECONDS = 20.0
"""How long a task that was asked to stop may take to record what it has; and what a part keeps for its archive."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """How a task ended: by itself with `code`, or (None) at the end of the part's time."""

    name: str
    code: int | None
    seconds: float


def carry_out(part: Part, out: Path, *, stand_in: bool, seconds: float, nanogpt: Path | None) -> int:
    """Do what is left of `part` in `seconds`; 0 when all of it has been done, however it ended, else 3."""
    folder = (out / f"part-{part}").absolute()
    unpack(archive_of(folder), folder)
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + seconds
    planned = tasks(part, stand_in=stand_in, nanogpt=nanogpt and nanogpt.absolute())
    try:
        for task in unfinished(planned, folder):
            left = ends - time.monotonic() - LEAVING_SECONDS
            if left < task.seconds:
                click.echo(f"{task.name}: left for a later call, {left:.0f} s being too few")
                continue
            note = perform(task, folder, left)
            (folder / "tasks" / f"{task.name}.json").write_text(json.dumps(asdict(note)))
            click.echo(f"{task.name}: {'out of time' if note.code is None else note.code}, {note.seconds:.0f} s")
    finally:
        pack(folder, archive_of(folder))
    notes = notes_in(folder)
    return 0 if all(task.name in notes and notes[task.name].code is not None for task in planned) else 3


def unfinished(planned: Sequence[Task], folder: Path) -> list[Task]:
    """The tasks that have not ended by themselves; one that cannot go on where it was is not begun a third time."""
    notes = notes_in(folder)
    return [task for task in planned if task.name not in notes or (notes[task.name].code is None and task.resumes)]


def perform(task: Task, folder: Path, seconds: float) -> Note:
    """Run `task` for `seconds` at most; its output goes to a log."""
    places = {"results": str(folder / "results"), "folder": str(folder)}
    command = [word.format(**places) if "{" in word else word for word in task.command]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    began = time.monotonic()
    with (folder / "tasks" / f"{task.name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            end(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return Note(name=task.name, code=code, seconds=time.monotonic() - began)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask as Ctrl-C does, so that what runs is recorded as interrupted; whoever stays is killed with all it started."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(LEAVING_SECONDS * 0.75)


def notes_in(folder: Path) -> dict[str, Note]:
    """How the tasks ended that were begun, by name."""
    found = (Note(**json.loads(path.read_text())) for path in sorted(folder.glob("tasks/*.json")))
    return {note.name: note for note in found}


def archive_of(folder: Path) -> Path:
    """Where a part's archive is."""
    return folder.with_suffix(".tar.gz")


def pack(folder: Path, archive: Path) -> None:
    """Everything of `folder` in one file."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)


def unpack(archive: Path, folder: Path) -> None:
    """What an earlier call left, where only its archive is at hand."""
    if archive.exists() and not folder.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder.parent, filter="data")
