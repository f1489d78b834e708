"""Imported by the fork server when a run of the session needs DeepSpeed. A missing DeepSpeed is its cells' affair, not an error here."""

from __future__ import annotations

import contextlib

with contextlib.suppress(ImportError):
    import deepspeed  # noqa: F401
