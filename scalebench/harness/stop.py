"""Being asked to stop, by Ctrl-C, a batch system or a closing terminal: once to finish tidily, twice to stop now."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Whether somebody has asked to stop. Asked again, KeyboardInterrupt is raised wherever the main thread is.

    Attributes:
        signal: by which was asked first; None as long as nobody has.
        now: whether it was asked again.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.now = False

    def __call__(self) -> bool:
        return self.signal is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal's handler."""
        if self.signal is not None:
            self.now = True
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    @property
    def reason(self) -> str:
        """Who stopped it, for the record."""
        asked = f" ({self.signal.name})" if self.signal else ""
        return f"stopped by {'the user' if self.signal in (None, signal.SIGINT) else 'a signal'}{asked}"


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """While inside, signals to stop are noted, and nothing is broken off. In another thread than the main one none
    arrive, and the caller of that thread decides."""
    stop, before = Stop(), dict[signal.Signals, Any]()
    try:
        for number in SIGNALS:
            with contextlib.suppress(ValueError):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    before[number] = signal.signal(number, stop.note)
        yield stop
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
