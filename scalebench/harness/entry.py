"""What the launcher tells a rank to run. Imports nothing: its launcher need not, and a rank has everything imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalebench.harness.job import Job, Orders, Report


def main(job: Job) -> Report:
    """One rank of a run: see scalebench.harness.worker."""
    from scalebench.harness import worker

    return worker.main(job)


def arrive(orders: Orders) -> bool:
    """A rank that does nothing: once it has, whatever it was forked from has imported everything."""
    return True
