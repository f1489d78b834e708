"""What a person sees while runs are measured: a live table on a terminal, plain lines elsewhere. All of it is messages,
so all of it goes to standard error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from scalebench.records.record import Record
from scalebench.spec import PlannedRun, RunSpec


def open_progress(console: Console | None = None) -> LiveProgress | LineProgress:
    """The progress that suits standard error."""
    console = console or Console(stderr=True, highlight=False)
    return LiveProgress(console) if console.is_terminal else LineProgress(console)


class SessionProgress:
    """What has ended so far, and by the mean of that how long the rest takes."""

    def __init__(self) -> None:
        self.finished: list[tuple[Record, Path]] = []
        self.runs: Sequence[PlannedRun] = ()

    def seconds_left(self) -> float | None:
        """Expected seconds until the last run ends; None before the first has."""
        if not self.finished:
            return None
        mean = sum(record.wall_seconds for record, _ in self.finished) / len(self.finished)
        return mean * (len(self.runs) - len(self.finished))

    def left(self) -> str:
        """`about 2 min left`, or nothing when it is unknown or over."""
        seconds = self.seconds_left()
        return f"about {duration(seconds)} left" if seconds else ""


class LineProgress(SessionProgress):
    """A line when a run starts and one when it ends: for logs, pipes and continuous integration."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def session_started(self, runs: Sequence[PlannedRun]) -> None:
        self.runs = runs

    def run_started(self, index: int, run: PlannedRun) -> None:
        self._say(index, f"{run_name(run)} ...")

    def phase(self, index: int, phase: str) -> None:
        """Phases pass too fast to be worth a line."""

    def run_ended(self, index: int, record: Record, path: Path) -> None:
        self.finished.append((record, path))
        facts = [record.status, throughput(record), duration(record.wall_seconds), self.left()]
        self._say(index, ", ".join(fact for fact in facts if fact))

    def _say(self, index: int, text: str) -> None:
        self._console.print(f"[{index + 1}/{len(self.runs)}] {text}", markup=False, soft_wrap=True)


@dataclass(kw_only=True)
class Row:
    """One cell of the live table."""

    spec: RunSpec
    kind: str
    planned: int
    state: str = "waiting"
    ended: list[Record] = field(default_factory=list)


class LiveProgress(SessionProgress):
    """A table of cells, drawn again whenever something happens."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._live = Live(console=console, redirect_stdout=False, redirect_stderr=False, auto_refresh=False)
        self._rows: dict[tuple[str, str], Row] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def session_started(self, runs: Sequence[PlannedRun]) -> None:
        self.runs = runs
        planned = Counter(_key(run) for run in runs)
        for run in sorted(runs, key=lambda run: run.kind):
            self._rows.setdefault(_key(run), Row(spec=run.spec, kind=run.kind, planned=planned[_key(run)]))
        self._draw()

    def run_started(self, index: int, run: PlannedRun) -> None:
        self.phase(index, "starting")

    def phase(self, index: int, phase: str) -> None:
        self._rows[_key(self.runs[index])].state = phase
        if phase != "measuring":  # drawing takes milliseconds of a core that a rank may be measured on
            self._draw()

    def run_ended(self, index: int, record: Record, path: Path) -> None:
        row = self._rows[_key(self.runs[index])]
        row.ended.append(record)
        row.state = record.status
        self.finished.append((record, path))
        self._draw()

    def _draw(self) -> None:
        caption = ", ".join(filter(None, [f"{len(self.finished)} of {len(self.runs)} runs", self.left()]))
        table = Table(
            "strategy", "ranks", "precision", "repeat", "status", "last throughput", caption=caption, box=None
        )
        for row in self._rows.values():
            name = row.spec.strategy if row.kind == "run" else f"{row.spec.strategy} (parity)"
            shown = throughput(row.ended[-1]) if row.ended else ""
            repeat = f"{len(row.ended)}/{row.planned}"
            table.add_row(name, str(row.spec.world_size), row.spec.precision, repeat, row.state, shown)
        self._live.update(table, refresh=True)


def run_name(run: PlannedRun) -> str:
    """`fsdp, 2 ranks, bf16, repeat 1`, or `parity` for the repeat."""
    ranks = f"{run.spec.world_size} rank{'s' if run.spec.world_size > 1 else ''}"
    which = "parity" if run.kind == "parity" else f"repeat {run.repeat + 1}"
    return f"{run.spec.strategy}, {ranks}, {run.spec.precision}, {which}"


def throughput(record: Record) -> str:
    """`12,340 tokens/s`, n/a for a run that has none, nothing for a parity check."""
    if record.kind == "parity":
        return ""
    # Here and not above: scipy takes seconds to import, and a wrong command should be told at once.
    from scalebench.analysis.cells import items_per_second
    from scalebench.reporting.text import UNKNOWN, figure

    value = items_per_second(record) if record.status == "ok" else None
    return f"{figure(value)} {record.workload.item}s/s" if value and record.workload else UNKNOWN


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _key(run: PlannedRun) -> tuple[str, str]:
    return run.spec.cell_id, run.kind
