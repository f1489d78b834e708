"""What the launcher tells a rank of a training to run. Imports nothing: its launcher need not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalebench.harness.job import Job, Report


def main(job: Job) -> Report:
    """One rank of a training: see scalebench.training.worker."""
    from scalebench.training import worker

    return worker.main(job)
