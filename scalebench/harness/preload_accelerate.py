"""Imported by the fork server when a run needs Accelerate. A missing Accelerate is its cells' affair, not an error
here."""

from __future__ import annotations

import contextlib
import gc

from scalebench.strategies.framework import private_environment

with contextlib.suppress(ImportError), private_environment():
    import accelerate.utils  # noqa: F401

gc.collect()
gc.freeze()  # as in preload
