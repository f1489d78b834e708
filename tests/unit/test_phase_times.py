"""Phases of a step, derived from hand-made facts."""

from __future__ import annotations

import pytest

from scalebench.analysis.phases import phase_times
from scalebench.records.phases import PhaseFacts
from scalebench.records.record import Record
from scalebench.reporting.experiments import experiments
from scalebench.reporting.phases import phases
from tests.unit.factory import make_record, make_spec

MILLISECOND = 1_000_000


def facts(*forward: int) -> PhaseFacts:
    """Steps with these milliseconds of forward, twice as many of backward, and one each for the rest."""
    ns = [each * MILLISECOND for each in forward]
    ones = [MILLISECOND] * len(ns)
    return PhaseFacts(
        start_ns=[0] * len(ns), data_ns=ones, forward_ns=ns, backward_ns=[2 * each for each in ns], optimizer_ns=ones
    )


def record_of(*ranks: PhaseFacts | None) -> Record:
    record = make_record(make_spec(world_size=len(ranks)))
    changed = [rank.model_copy(update={"phases": found}) for rank, found in zip(record.ranks, ranks, strict=True)]
    return record.model_copy(update={"ranks": changed})


def test_phases_are_means_over_steps_and_ranks_and_know_the_slowest() -> None:
    times = phase_times(record_of(facts(2, 4), facts(5, 9)))
    assert times is not None
    forward = times["forward"]
    assert (forward.mean, forward.fastest, forward.slowest) == pytest.approx((5e-3, 3e-3, 7e-3))
    assert forward.slowest_rank == 1
    assert sum(time.mean for time in times.values()) == pytest.approx(17e-3)


def test_phases_that_a_rank_does_not_know_are_unknown() -> None:
    assert phase_times(record_of(facts(2, 4), None)) is None
    assert phase_times(make_record(status="failed")) is None


def test_the_report_shows_shares_and_the_spread_between_ranks() -> None:
    alone, together = record_of(facts(2, 4)), record_of(facts(2, 4), facts(5, 9))
    (experiment,) = experiments([alone, together])
    shown = phases(experiment)
    assert shown is not None
    assert list(shown.frame["forward, ms"]) == ["3.000 (27.3%)", "5.000 (29.4%), 3.00 to 7.00"]
    (nothing,) = experiments([make_record()])
    assert phases(nothing) is None
