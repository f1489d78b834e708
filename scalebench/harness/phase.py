"""Where a run is, told to the runner through a small file in the launch's folder."""

from __future__ import annotations

from pathlib import Path

PHASE_FILE = "phase"
PHASES = ("starting", "preparing", "warm-up", "measuring", "diagnostics", "comparing")


class Phase:
    """Written off the steps' clock only. Without a folder (another rank, or a foreign launcher) nothing is written."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / PHASE_FILE if folder else None

    def enter(self, name: str) -> None:
        if self._path:
            self._path.write_text(name)
