"""The table of the image pipeline's study, from records made by hand."""

from __future__ import annotations

from scalebench.records.loading import LoaderRate
from scalebench.records.record import Record
from tests.benchmarks.image_pipeline import table
from tests.unit.factory import make_record, make_spec


def record(workers: int, waited_ns: int, repeat: int = 0) -> Record:
    """Two warm-up and four timed steps of 10 ms; in each timed one the rank waits for data for `waited_ns`."""
    made = make_record(make_spec(num_workers=workers), repeat=repeat)
    (rank,) = made.ranks
    rates = [LoaderRate(num_workers=count, steps=100 * (1 + count), seconds=1.0) for count in (0, 1)]
    seen = rank.model_copy(update={"data_wait_ns": [9_000_000] * 2 + [waited_ns] * 4, "loader_rates": rates})
    return made.model_copy(update={"ranks": [seen]})


def test_a_row_per_number_of_workers_with_the_share_of_the_window_that_steps_waited() -> None:
    made = [record(1, 1_000_000), record(0, 4_000_000), record(0, 6_000_000, repeat=1)]
    _, _, none, one = table(made).splitlines()
    assert none == "| tiny | 0 | 2 | 100.0 | 50.0% | 40.0% – 60.0% | 100.0 | 200.0 | n/a | n/a |"
    assert one == "| tiny | 1 | 1 | 100.0 | 10.0% | 10.0% – 10.0% | 100.0 | 200.0 | n/a | n/a |"
