"""What a person sees while runs are measured: a live table on a terminal, plain lines elsewhere. All of it is messages,
so all of it goes to standard error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import geometric_mean
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from scalebench.analysis.durations import Durations
from scalebench.cli.summary import Finished
from scalebench.cli.wording import head, place, shown, telling
from scalebench.records.record import Record
from scalebench.spec import PlannedRun, RunSpec

LINES_BESIDE_ROWS = 4
"""Of the live table: its heads, its caption, and the line that the cursor is on."""


def open_progress(recorded: Finished = (), console: Console | None = None) -> LiveProgress | LineProgress:
    """The progress that suits standard error; `recorded` is what a plan had before it was resumed."""
    console = console or Console(stderr=True, highlight=False)
    return (LiveProgress if console.is_terminal else LineProgress)(console, recorded)


class SessionProgress:
    """What of a plan has ended, before this session and in it, and by that how long the rest takes."""

    def __init__(self, recorded: Finished = ()) -> None:
        self.finished: list[tuple[Record, Path]] = list(recorded)
        self.runs: Sequence[PlannedRun] = ()
        self._left: Counter[tuple[str, str]] = Counter()
        self._durations = Durations(record for record, _ in recorded)

    def session_started(self, runs: Sequence[PlannedRun]) -> None:
        import_analysis()
        self.runs = runs
        self._left = Counter(run.key for run in runs)

    def run_ended(self, index: int, record: Record, path: Path) -> None:
        self.finished.append((record, path))
        self._left[record.key] -= 1
        self._durations.add(record)

    def seconds_left(self, key: tuple[str, str] | None = None) -> float | None:
        """Expected seconds until the last run ends, or the last of one cell and kind; None before any has ended."""
        return self._durations.together(self._left if key is None else {key: self._left[key]})

    def left(self) -> str:
        """`about 2 min left`, or nothing when it is unknown or over."""
        seconds = self.seconds_left()
        return f"about {duration(seconds)} left" if seconds else ""


class LineProgress(SessionProgress):
    """A line when a run starts and one when it ends: for logs, pipes and continuous integration."""

    def __init__(self, console: Console, recorded: Finished = ()) -> None:
        super().__init__(recorded)
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def run_started(self, index: int, run: PlannedRun) -> None:
        self._say(index, f"{run_name(run)} ...")

    def phase(self, index: int, phase: str) -> None:
        """Phases pass too fast to be worth a line."""

    def run_ended(self, index: int, record: Record, path: Path) -> None:
        super().run_ended(index, record, path)
        facts = [record.status, throughput(record), duration(record.wall_seconds), self.left()]
        self._say(index, ", ".join(fact for fact in facts if fact))

    def _say(self, index: int, text: str) -> None:
        self._console.print(f"[{index + 1}/{len(self.runs)}] {text}", markup=False, soft_wrap=True)


@dataclass(kw_only=True)
class Row:
    """One cell of the live table: how many runs of it there are to be, what came of those that ended."""

    spec: RunSpec
    kind: str
    planned: int = 0
    state: str = "waiting"
    ended: int = 0
    rates: list[float] = field(default_factory=list)
    item: str = ""

    def take(self, record: Record) -> None:
        self.ended += 1
        self.state = record.status
        rate = rate_of(record)
        if rate and record.workload:
            self.rates.append(rate)
            self.item = record.workload.item

    def cells(self, fields: Sequence[str], seconds: float | None) -> list[str]:
        known = rate_text(geometric_mean(self.rates), self.item) if self.rates else None
        ended = f"{self.ended}/{self.planned}{' parity' if self.kind == 'parity' else ''}"
        rate = known or ("n/a" if self.ended and self.kind == "run" else "")
        return [*shown(self.spec, fields), ended, self.state, rate, duration(seconds) if seconds else ""]


class LiveProgress(SessionProgress):
    """A table of cells, drawn again whenever something happens."""

    def __init__(self, console: Console, recorded: Finished = ()) -> None:
        super().__init__(recorded)
        self._live = Live(console=console, redirect_stdout=False, redirect_stderr=False, auto_refresh=False)
        self._rows: dict[tuple[str, str], Row] = {}
        self._fields: list[str] = []
        self._current = 0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def session_started(self, runs: Sequence[PlannedRun]) -> None:
        super().session_started(runs)
        planned: list[Record | PlannedRun] = [*(record for record, _ in self.finished), *runs]
        for run in sorted(planned, key=lambda run: (run.kind, place(run.spec))):
            self._rows.setdefault(run.key, Row(spec=run.spec, kind=run.kind)).planned += 1
        for record, _ in self.finished:
            self._rows[record.key].take(record)
        self._fields = telling([row.spec for row in self._rows.values()])
        self._draw()

    def run_started(self, index: int, run: PlannedRun) -> None:
        self.phase(index, "starting")

    def phase(self, index: int, phase: str) -> None:
        self._current = index
        self._rows[self.runs[index].key].state = phase
        if phase != "measuring":  # drawing takes milliseconds of a core that a rank may be measured on
            self._draw()

    def run_ended(self, index: int, record: Record, path: Path) -> None:
        super().run_ended(index, record, path)
        self._rows[record.key].take(record)
        self._draw()

    def _draw(self) -> None:
        total = sum(row.planned for row in self._rows.values())
        rows, hidden = self._visible()
        parts = [f"{len(self.finished)} of {total} runs", self.left(), f"{hidden} more cells" if hidden else ""]
        table = Table(*map(head, self._fields), "runs", "status", "throughput so far", "time left", box=None)
        table.caption = ", ".join(filter(None, parts))
        for row in rows:
            table.add_row(*row.cells(self._fields, self.seconds_left((row.spec.cell_id, row.kind))))
        self._live.update(table, refresh=True)

    def _visible(self) -> tuple[list[Row], int]:
        """As many rows as the terminal has room for, those around the current run's, and how many are not shown."""
        rows = list(self._rows.values())
        room = max(1, self._live.console.height - LINES_BESIDE_ROWS)
        current = rows.index(self._rows[self.runs[self._current].key])
        first = max(0, min(current - room // 2, len(rows) - room))
        return rows[first : first + room], max(0, len(rows) - room)


def run_name(run: PlannedRun) -> str:
    """`fsdp, 2 ranks, bf16, repeat 1`, or `parity` for the repeat."""
    ranks = f"{run.spec.world_size} rank{'s' if run.spec.world_size > 1 else ''}"
    which = "parity" if run.kind == "parity" else f"repeat {run.repeat + 1}"
    return f"{run.spec.strategy}, {ranks}, {run.spec.precision}, {which}"


def throughput(record: Record) -> str:
    """`12,340 tokens/s`, n/a for a run that has none, nothing for a parity check."""
    if record.kind == "parity":
        return ""
    rate = rate_of(record)
    return rate_text(rate, record.workload.item) if rate and record.workload else "n/a"


def import_analysis() -> None:
    """What figures and the answer need takes seconds to import: not before a wrong command is told, nor between two
    runs, but while the ranks' fork server is importing too."""
    import scalebench.reporting  # noqa: F401


def rate_of(record: Record) -> float | None:
    """Items per second of a run that was timed."""
    # Here and not above: scipy takes seconds to import, and a wrong command should be told at once.
    from scalebench.analysis.cells import items_per_second

    return items_per_second(record) if record.status == "ok" else None


def rate_text(rate: float, item: str) -> str:
    """`12,340 tokens/s`."""
    from scalebench.reporting.text import figure

    return f"{figure(rate)} {item}s/s"


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
