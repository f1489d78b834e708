"""A tracker at arm's length: in a thread of its own, and left out as soon as it fails."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from scalebench.trackers.base import Tracker

Tell = Callable[[str], None]
END = "end"


class Guarded:
    """Passes calls on to a tracker, which is opened in the thread that alone uses it.

    Nothing that the tracker raises, and no time that it takes, reaches the caller. A failure is told once; after it
    calls are dropped.

    Attributes:
        said: what the tracker said at its end; None before, and of one that failed.
    """

    def __init__(self, name: str, opened: Callable[[], Tracker], tell: Tell) -> None:
        self.name = name
        self.said: str | None = None
        self._opened, self._tell = opened, tell
        self._calls: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def call(self, method: str, *arguments: Any) -> None:
        """Let the tracker do this after all that it was told before."""
        if self._thread.is_alive():
            self._calls.put((method, *arguments))

    def end(self, status: str, patience_seconds: float) -> None:
        """Let it finish; one that takes longer is left behind."""
        self.call(END, status)
        self._thread.join(patience_seconds)
        if self._thread.is_alive():
            self._tell(f"tracker {self.name} has not ended within {patience_seconds:g} s, and is left behind.")

    def _work(self) -> None:
        try:
            tracker, method = self._opened(), ""
            while method != END:
                method, *arguments = self._calls.get()
                self.said = getattr(tracker, method)(*arguments)
        except (Exception, SystemExit) as error:
            reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            self._tell(
                f"tracker {self.name} fails and is left out: {type(error).__name__}: {reason}. Training goes on."
            )
