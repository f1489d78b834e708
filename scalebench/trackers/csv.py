"""CSV: a row per look, validation and checkpoint, a column per figure; the hyper-parameters beside, as JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalebench.trackers.base import Pictures, Run

STEP = "step"


class Csv:
    """`DIR/csv/ID.csv`, on disk after each row. What a resumed training does again is taken out first."""

    def __init__(self, run: Run) -> None:
        self._file = run.folder / "csv" / f"{run.id}.csv"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        parameters = json.dumps(run.parameters, indent=1, default=str) + "\n"
        self._file.with_suffix(".json").write_text(parameters, encoding="utf-8")
        rows = [row for row in self._rows() if int(row[STEP]) <= run.first_step] if run.first_step else []
        self._columns = list(rows[0]) if rows else [STEP]
        self._write_all(rows)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        new = [name for name in values if name not in self._columns]
        if new:
            rows = self._rows()
            self._columns += new
            self._write_all(rows)
        with self._file.open("a", newline="", encoding="utf-8") as opened:
            csv.DictWriter(opened, self._columns).writerow({STEP: step, **values})

    def images(self, name: str, images: Pictures, step: int) -> None:
        pass

    def checkpoint(self, path: Path) -> None:
        pass

    def end(self, status: str) -> str:
        return str(self._file)

    def _rows(self) -> list[dict[str, str]]:
        if not self._file.exists():
            return []
        with self._file.open(newline="", encoding="utf-8") as opened:
            return list(csv.DictReader(opened))

    def _write_all(self, rows: list[dict[str, str]]) -> None:
        """Anew, or not at all."""
        unfinished = self._file.with_suffix(".unfinished")
        with unfinished.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        unfinished.replace(self._file)
