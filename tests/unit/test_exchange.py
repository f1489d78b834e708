"""Communication from hand-made records: bytes, bandwidths by hand, exposure, and the share of a probe's line."""

from __future__ import annotations

from typing import Any

import pytest

from scalebench.analysis.communication import exchanged, expected, exposure, speeds
from scalebench.records.communication import CollectiveFacts, CommunicationFacts
from scalebench.records.record import Record
from scalebench.records.theory import TheoryFacts
from scalebench.reporting.communication import collectives, exchange
from scalebench.reporting.experiments import experiments
from scalebench.theory.model import Model, Parameter
from scalebench.theory.scheme import Replicated, Scheme
from tests.unit.factory import make_record, make_spec
from tests.unit.test_probe import make_probe

PAYLOAD = 8_000_000
MODEL = Model(parameters=(Parameter(shape=(1000, 2000)),))


def seen(seconds: float | None = 0.01, **fields: Any) -> CommunicationFacts:
    """Two all-reduces of four megabytes each, half of whose time was hidden."""
    kind = CollectiveFacts(
        kind=fields.pop("kind", "all_reduce"), ranks=2, dtype="float32", count=2, payload_bytes=PAYLOAD, seconds=seconds
    )
    times = {"step_seconds": 0.05, "total_seconds": seconds, "exposed_seconds": seconds and seconds / 2}
    return CommunicationFacts(**({"backend": "gloo", "collectives": [kind]} | times | fields))


def exchanging(*ranks: CommunicationFacts | None) -> Record:
    record = make_record(make_spec(world_size=len(ranks)))
    found = [rank.model_copy(update={"communication": c}) for rank, c in zip(record.ranks, ranks, strict=True)]
    theory = TheoryFacts(model=MODEL, scheme=Scheme(ranks=len(ranks), backend="gloo", sharding=Replicated()))
    return record.model_copy(update={"ranks": found, "theory": theory})


def test_bytes_stand_beside_the_formulas() -> None:
    record = exchanging(seen(), seen())
    said, found = expected(record), exchanged(record)
    assert said == found
    assert found is not None
    assert (found.payload, found.wire) == (PAYLOAD, PAYLOAD), "a ring of two sends what it reduces once"


def test_bandwidths_are_those_of_the_rank_that_waited_least() -> None:
    (speed,) = speeds(exchanging(seen(0.04), seen(0.01)))
    assert speed.seconds == 0.01
    assert speed.algorithm_bandwidth == pytest.approx(PAYLOAD / 0.01)
    assert speed.bus_bandwidth == pytest.approx(PAYLOAD / 0.01), "2 (n-1)/n is 1 for two ranks"
    assert speed.of_probe is None


def test_the_probes_line_says_how_fast_they_would_be_alone() -> None:
    """The probe's line is 10 us and 1 GB/s: two of them take 8.02 ms."""
    (speed,) = speeds(exchanging(seen(), seen()), [make_probe(2)])
    assert speed.of_probe == pytest.approx(0.802, rel=1e-3)
    (others,) = speeds(exchanging(seen(), seen(), seen()), [make_probe(3)])
    assert others.of_probe is None, "groups of two, a probe of three"
    (gathers,) = speeds(exchanging(seen(kind="all_gather"), seen(kind="all_gather")), [make_probe(2)])
    assert gathers.of_probe is None, "nobody probed it"


def test_exposure_is_the_mean_over_ranks_and_the_rest_is_overlapped() -> None:
    found = exposure(exchanging(seen(0.01), seen(0.03)))
    assert found is not None
    assert (found.total, found.exposed, found.overlapped, found.step) == pytest.approx((0.02, 0.01, 0.01, 0.05))


@pytest.mark.parametrize(
    "ranks", [(seen(), None), (seen(None, unknown_because="the profiler saw 3"), seen())], ids=["unseen", "unpaired"]
)
def test_one_rank_that_is_not_known_makes_times_unknown(ranks: tuple[CommunicationFacts | None, ...]) -> None:
    assert exposure(exchanging(*ranks)) is None


def test_a_kind_without_a_known_way_has_a_payload_and_no_bus_bandwidth() -> None:
    record = exchanging(seen(kind="scatter"), seen(kind="scatter"))
    assert exchanged(record) is None
    (speed,) = speeds(record)
    assert (speed.payload_bytes, speed.bus_bandwidth) == (PAYLOAD, None)
    assert speed.algorithm_bandwidth is not None


def test_the_report_shows_bytes_with_the_formula_times_and_reasons() -> None:
    known, unknown = exchanging(seen(), seen()), exchanging(seen(None, unknown_because="the profiler saw 3"), seen())
    (experiment,) = experiments([known])
    shown, kinds = exchange(experiment), collectives(experiment, [make_probe(2)])
    assert shown is not None
    assert shown.frame["payload"].tolist() == ["7.63 MiB (7.63 MiB)"]
    assert shown.frame["exposed, ms"].tolist() == ["5.000 (10.0% of the profiled step)"]
    assert kinds is not None
    assert kinds.frame["of the probe"].tolist() == ["80.2%"]
    (experiment,) = experiments([unknown])
    told = exchange(experiment)
    assert told is not None
    assert told.frame["payload"].tolist() == ["7.63 MiB (7.63 MiB)"], "only times are unknown"
    assert "under way, ms" not in told.frame
    assert "the profiler saw 3" in " ".join(told.notes)


def test_a_strategy_without_a_formula_is_named() -> None:
    record = exchanging(seen(), seen())
    (experiment,) = experiments([record.model_copy(update={"theory": None})])
    shown = exchange(experiment)
    assert shown is not None
    assert shown.frame["payload"].tolist() == ["7.63 MiB"]
    assert "No formula: what ddp does" in " ".join(shown.notes)


def test_one_rank_exchanges_nothing() -> None:
    (experiment,) = experiments([make_record()])
    assert exchange(experiment) is None
    assert collectives(experiment, []) is None
