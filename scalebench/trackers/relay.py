"""The launching process's end of tracking: what rank 0 sends goes to every tracker."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from scalebench.trackers import open_tracker
from scalebench.trackers.base import Run
from scalebench.trackers.feed import LOOK, Feed
from scalebench.trackers.guard import Guarded, Tell
from scalebench.trackers.system import system_figures

PATIENCE_SECONDS = 60.0
PATIENCE_WITH_CHECKPOINTS_SECONDS = 3600.0


class Relay:
    """Receives from the feed until all processes that hold it have closed it.

    Attributes:
        feed: for the ranks.
    """

    def __init__(self, trackers: Sequence[Guarded]) -> None:
        self._trackers, self._ended = trackers, False
        self._receiver, sender = multiprocessing.Pipe(duplex=False)
        self.feed = Feed(sender)
        self._thread = threading.Thread(target=self._receive, name="tracking", daemon=True)
        self._thread.start()

    def end(self, status: str, checkpoints: Sequence[Path] = ()) -> list[str]:
        """Let every tracker keep `checkpoints` and finish, once the ranks are gone. A line per tracker that did."""
        if self._ended:
            return []
        self._ended = True
        self.feed.close()
        self._thread.join(PATIENCE_SECONDS)
        for checkpoint in checkpoints:
            self._pass_on("checkpoint", checkpoint)
        for tracker in self._trackers:
            tracker.end(status, PATIENCE_WITH_CHECKPOINTS_SECONDS if checkpoints else PATIENCE_SECONDS)
        return [f"tracker {tracker.name}: {tracker.said}" for tracker in self._trackers if tracker.said]

    def _receive(self) -> None:
        with system_figures() as figures:
            while True:
                try:
                    method, *arguments = self._receiver.recv()
                except (EOFError, OSError):
                    return
                if method == LOOK:
                    method, arguments = "scalars", [arguments[0] | figures(), arguments[1]]
                self._pass_on(method, *arguments)

    def _pass_on(self, method: str, *arguments: object) -> None:
        for tracker in self._trackers:
            tracker.call(method, *arguments)


@contextmanager
def relaying(names: Sequence[str], run: Run, tell: Tell) -> Iterator[Relay]:
    """Trackers opened for `run`, each in its thread; what is not ended inside was interrupted."""
    relay = Relay([Guarded(name, partial(open_tracker, name, run), tell) for name in names])
    try:
        yield relay
    finally:
        relay.end("interrupted")
