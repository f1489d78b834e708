"""Imported by the fork server when a run needs Lightning. A missing Lightning is its cells' affair, not an error
here."""

from __future__ import annotations

import contextlib
import gc

from scalebench.strategies import fabric
from scalebench.strategies.framework import private_environment

with contextlib.suppress(ImportError), private_environment():
    fabric.load()

gc.collect()
gc.freeze()  # as in preload
