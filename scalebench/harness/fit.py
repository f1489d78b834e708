"""What an out-of-memory tells of cells that were not tried."""

from __future__ import annotations

from collections.abc import Iterable

from scalebench.harness.outcome import Outcome
from scalebench.records.record import Record
from scalebench.spec import PlannedRun, RunSpec

NOT_ABOUT_MEMORY = {
    "micro_batch", "accumulation", "warmup_steps", "steps", "target_precision", "max_seconds", "seed", "scaling",
    "timeout_seconds",
}  # fmt: skip
"""Fields that may differ: how large a batch is, which is compared, and how long a run is and how seeded."""


def implied_by(spec: RunSpec, did_not_fit: Iterable[RunSpec]) -> RunSpec | None:
    """The cell of `did_not_fit` because of which `spec` does not fit either: the same, with a smaller micro-batch.

    A cell that accumulates over micro-batches may hold gradients that one without accumulation does not.
    """
    same = [one for one in did_not_fit if _rest(one) == _rest(spec) and one.micro_batch < spec.micro_batch]
    return next((one for one in same if one.accumulation == 1 or spec.accumulation > 1), None)


def implied_outcome(run: PlannedRun, did_not_fit: Iterable[RunSpec]) -> Outcome | None:
    """The outcome of a timed run that `did_not_fit` rules out, or None. It has no error, since nothing was run."""
    smaller = implied_by(run.spec, did_not_fit) if run.kind == "run" else None
    if smaller is None:
        return None
    reason = f"implied: the same with a micro-batch of {smaller.micro_batch} ran out of memory; --force runs it"
    return Outcome(status="oom", reason=reason)


def is_implied(record: Record) -> bool:
    """Whether `record` is such an outcome: what was run has an error."""
    return record.status == "oom" and record.error is None


def _rest(spec: RunSpec) -> dict[str, object]:
    return spec.model_dump(exclude=NOT_ABOUT_MEMORY)
