"""How long a run of a cell takes from start to end, by those that were made: what the rest of a plan will take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from scalebench.records.record import Record

Key = tuple[str, str]
"""Cell id and kind of a run (`Record.key`)."""


class Durations:
    """Mean wall time in seconds of the runs of each cell and kind, as records come in."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._seconds: dict[Key, list[float]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take `record` in; an interrupted one says nothing."""
        if record.status != "interrupted":
            self._seconds.setdefault(record.key, []).append(record.wall_seconds)

    def of(self, key: Key) -> float | None:
        """Seconds that a run of `key` takes; None when none was made."""
        return fmean(self._seconds[key]) if key in self._seconds else None

    def together(self, runs: Mapping[Key, int]) -> float | None:
        """Seconds that so many `runs` take, one after another; those of a cell not seen as long as the others' mean.

        None when nothing was seen.
        """
        known = {key: fmean(seconds) for key, seconds in self._seconds.items()}
        if not known:
            return None
        typical = fmean(known.values())
        return sum(count * known.get(key, typical) for key, count in runs.items())
