"""Loader rates: measured on a loader that sleeps, and what follows from them for the number of workers."""

from __future__ import annotations

import itertools
import multiprocessing
import resource
import time
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from scalebench import data
from scalebench.analysis.loading import loading
from scalebench.errors import UserError
from scalebench.harness.loading import worker_counts
from scalebench.meters import loading as meter
from scalebench.meters.loading import loader_rate, measure_loader_rates
from scalebench.records.loading import LoaderRate
from scalebench.records.record import Record
from scalebench.reporting.experiments import experiments
from scalebench.reporting.loading import data_loading
from scalebench.spec import PlannedRun
from scalebench.strategies.base import Batch
from tests.unit.factory import make_record, make_spec

FETCH_SECONDS = 0.03


class SlowSamples:
    """Samples whose every fetch takes `FETCH_SECONDS` of waiting, as a remote disk's would."""

    name, sha256 = "slow", None

    def __len__(self) -> int:
        return 10_000

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        time.sleep(FETCH_SECONDS)
        return {"tokens": torch.as_tensor(indices)}


def slow_loader(num_workers: int) -> Iterator[list[Batch]]:
    """One step per fetch."""
    return data.loader(SlowSamples(), micro_batch=64, device=torch.device("cpu"), num_workers=num_workers)


def test_rates_are_those_of_the_loader_and_no_worker_is_left() -> None:
    """By how much workers multiply them depends on who else is on the cores: on scripted clocks below."""
    rates = {rate.num_workers: rate.steps / rate.seconds for rate in measure_loader_rates(slow_loader, 1, (0, 1, 4))}
    assert list(rates) == [0, 1, 4]
    assert 0 < rates[0] <= 1 / FETCH_SECONDS, "no fetch is shorter than it waits"
    assert all(rate > 0 for rate in rates.values())
    assert multiprocessing.active_children() == []


class Cramped(SlowSamples):
    """Batches for which workers, but not the rank itself, lack shared memory."""

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        if get_worker_info():
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return {"tokens": torch.zeros(len(indices), 2**14)}


def cramped_loader(num_workers: int) -> Iterator[list[Batch]]:
    return data.loader(Cramped(), micro_batch=64, device=torch.device("cpu"), num_workers=num_workers)


def test_workers_without_shared_memory_say_so_instead_of_hanging() -> None:
    with pytest.raises(UserError, match="--shm-size"):
        next(cramped_loader(1))


def test_a_number_of_workers_that_does_not_work_has_no_rate_and_harms_no_other() -> None:
    assert [rate.num_workers for rate in measure_loader_rates(cramped_loader, 1, (0, 1))] == [0]


def scripted(monkeypatch: pytest.MonkeyPatch, durations: Iterator[float]) -> Iterator[list[Batch]]:
    """Batches that come after these durations on a clock of their own."""
    now = [0]
    monkeypatch.setattr(meter.time, "monotonic_ns", lambda: now[0])

    def batches() -> Iterator[list[Batch]]:
        for seconds in durations:
            now[0] += round(seconds * 1e9)
            yield []

    return batches()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_start_and_what_was_fetched_ahead_are_left_out(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Workers start in a second; from then on each round of them gives their fetches of two steps at once."""
    each_round = [0.02] + [0.0] * (2 * workers - 1)
    rounds = itertools.chain.from_iterable(itertools.repeat(each_round))
    rate = loader_rate(scripted(monkeypatch, itertools.chain([1.0], rounds)), workers, steps_per_fetch=2)
    assert rate.steps % (2 * workers) == 0
    assert rate.steps / rate.seconds == pytest.approx(2 * workers / 0.02)


def test_a_loader_too_slow_for_that_is_judged_by_what_it_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    two = loader_rate(scripted(monkeypatch, itertools.repeat(2.0)), 2, steps_per_fetch=1)
    assert two == LoaderRate(num_workers=2, steps=1, seconds=2.0)
    one = loader_rate(scripted(monkeypatch, itertools.repeat(9.0)), 2, steps_per_fetch=1)
    assert one == LoaderRate(num_workers=2, steps=1, seconds=9.0)


def run_of(wait: float, rates: dict[int, float], ranks: int = 1, num_workers: int = 0) -> Record:
    """Steps of 10 ms of which `wait` is spent waiting, and a loader that alone gives `rates` steps per second."""
    record = make_record(make_spec(world_size=ranks, num_workers=num_workers), 0.01)
    waits = [round(1e7 * wait)] * len(record.ranks[0].step_end_ns)
    measured = [LoaderRate(num_workers=workers, steps=1000, seconds=1000 / rate) for workers, rate in rates.items()]
    slower = [each.model_copy(update={"seconds": 2 * each.seconds}) for each in measured]
    facts = [
        rank.model_copy(update={"data_wait_ns": waits, "loader_rates": slower if rank.rank else measured})
        for rank in record.ranks
    ]
    return record.model_copy(update={"ranks": facts})


def test_the_workers_that_end_the_wait_are_those_that_outrun_the_steps_without_it() -> None:
    found = loading(run_of(0.5, {0: 200.0, 1: 190.0, 2: 390.0, 4: 700.0}))
    assert found is not None
    assert found.stalled
    assert (found.wait_share, found.needed) == pytest.approx((0.5, 200.0))
    assert found.workers == 2, "one gives less than 200 steps a second"
    on_two = loading(run_of(0.5, {0: 200.0, 1: 190.0, 2: 390.0, 4: 700.0}, ranks=2))
    assert on_two is not None
    assert on_two.workers == 4, "the slower rank counts"
    assert on_two.rates[4] == pytest.approx(350.0)


def test_what_no_worker_count_ends_and_what_needs_none() -> None:
    hopeless = loading(run_of(0.9, {0: 111.0, 1: 110.0, 2: 220.0, 4: 440.0}))
    assert hopeless is not None
    assert hopeless.workers is None
    fine = loading(run_of(0.001, {0: 1e5}, num_workers=3))
    assert fine is not None
    assert not fine.stalled
    assert fine.workers == 3
    assert loading(run_of(0.5, {})) is None
    assert loading(make_record()) is None


@pytest.mark.parametrize(
    ("wait", "rates", "told"),
    [
        (0.5, {0: 200.0, 1: 190.0, 2: 390.0, 4: 700.0}, "--num-workers 2"),
        (0.9, {0: 111.0, 1: 110.0, 2: 220.0, 4: 440.0}, "more than 4 workers"),
        (0.001, {0: 1e5}, "nothing to end"),
        (0.5, {0: 200.0}, "--loader-rates would tell"),
    ],
)
def test_the_report_says_what_to_do(wait: float, rates: dict[int, float], told: str) -> None:
    (experiment,) = experiments([run_of(wait, rates)])
    shown = data_loading(experiment)
    assert shown is not None
    assert list(shown.frame["to end the wait"]) == [told]
    (nothing,) = experiments([make_record()])
    assert data_loading(nothing) is None


def test_more_workers_are_tried_where_steps_wait_or_when_asked() -> None:
    spec = make_spec(num_workers=3)
    waiting, swift = run_of(0.2, {}).ranks[0], run_of(0.001, {}).ranks[0]
    assert worker_counts(PlannedRun(spec=spec), swift) == [0, 3]
    assert worker_counts(PlannedRun(spec=spec, loader_rates=True), swift) == [0, 1, 2, 3, 4]
    assert worker_counts(PlannedRun(spec=spec), waiting) == [0, 1, 2, 3, 4]
