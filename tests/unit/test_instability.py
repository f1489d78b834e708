"""Each instability put into a record by hand is the one that is found, with something to do; a calm run has none."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pytest

from scalebench.analysis.instability import instabilities
from scalebench.analysis.unsteady import Instability, two_digits
from scalebench.records.device import SensorFacts
from scalebench.records.memory import MemoryFacts
from scalebench.records.record import ChunkFacts, Record, WindowFacts
from scalebench.reporting import answer
from tests.unit.factory import make_record, make_spec

WARM_UP, TIMED = 40, 200
Seconds = npt.NDArray[np.float64]


def calm(spread: float = 0.01) -> Seconds:
    return 0.01 * (1 + spread * np.random.default_rng(0).normal(size=WARM_UP + TIMED))


def run_of(seconds: Seconds, **fields: object) -> Record:
    """A CPU run whose steps take `seconds`, warm-up first; `fields` are the record's, but for those of a spec."""
    spec_fields = {name: fields.pop(name) for name in ("world_size", "device") if name in fields}
    spec = make_spec(warmup_steps=WARM_UP, steps=len(seconds) - WARM_UP, **spec_fields)
    return make_record(spec, seconds.tolist(), **fields)


def open_ended(record: Record, target: float = 0.02) -> Record:
    """The record of the same steps, had their number been left to themselves."""
    spec = record.spec.model_copy(
        update={"warmup_steps": None, "steps": None, "target_precision": target, "max_seconds": 2.0}
    )
    window = WindowFacts(first_step=WARM_UP, refill_steps=0, stopped="max_seconds")
    return record.model_copy(update={"spec": spec, "window": window})


def with_rank(record: Record, **fields: object) -> Record:
    return record.model_copy(update={"ranks": [rank.model_copy(update=fields) for rank in record.ranks]})


def only(record: Record) -> Instability:
    (found,) = instabilities(record)
    assert found.advice
    return found


def test_a_calm_run_has_none() -> None:
    assert instabilities(run_of(calm())) == []
    assert instabilities(open_ended(run_of(calm()))) == []
    assert instabilities(run_of(calm(), status="oom")) == []


def test_a_warm_up_that_was_too_short_or_never_over() -> None:
    seconds = calm()
    seconds[:WARM_UP] *= 1.3
    exact = only(run_of(seconds))
    assert exact.kind == "never settled"
    assert re.search(r"(29|30)\.\d% more", exact.seen)
    assert "--warmup-steps" in exact.advice
    assert "--max-seconds" in only(open_ended(run_of(seconds))).advice


def test_drift() -> None:
    found = only(run_of(calm() * np.linspace(1, 1.2, WARM_UP + TIMED)))
    assert found.kind == "drift"
    assert "slower" in found.seen


def test_too_few_steps_and_how_many_there_should_be() -> None:
    found = only(run_of(calm()[: WARM_UP + 20]))
    assert found.kind == "too short"
    assert "20 timed steps" in found.seen
    assert re.fullmatch(r"--steps 4\d", found.advice)


def test_a_median_less_known_than_was_asked() -> None:
    found = only(open_ended(run_of(calm(spread=0.1)), target=0.008))
    assert found.kind == "imprecise"
    assert "±0.8% was asked" in found.seen
    assert "--max-seconds" in found.advice
    assert "quiet" in only(open_ended(run_of(calm(spread=0.1)), target=0.001)).advice


def test_stalls_now_and_then_and_at_fixed_intervals() -> None:
    seconds = calm()
    seconds[[50, 71, 150, 153, 211]] += 0.05
    assert only(run_of(seconds)).kind == "stalls"
    seconds = calm()
    seconds[WARM_UP + 7 :: 25] += 0.01
    found = only(run_of(seconds))
    assert (found.kind, "every 25 steps" in found.seen) == ("periodic stalls", True)


def test_two_typical_speeds() -> None:
    seconds = calm()
    seconds[np.random.default_rng(1).uniform(size=len(seconds)) < 0.3] *= 1.2
    found = only(run_of(seconds))
    assert found.kind == "two speeds"
    slow, fast = map(float, re.findall(r"([\d.]+) ms", found.seen))
    assert (fast, slow) == pytest.approx((10, 12), rel=0.01)


def test_cpu_taken_by_others() -> None:
    """2 s of window on one rank that used 2 s; everybody used 3."""
    record = with_rank(run_of(calm()), cpu_seconds=2.0, host_busy_seconds=3.0)
    assert only(record).kind == "CPU taken by others"
    large = record.model_copy(update={"environment": record.environment | {"cores": 64}})
    assert instabilities(large) == [], "half a core of 64 is nothing"
    assert instabilities(with_rank(run_of(calm()), cpu_seconds=2.0, host_busy_seconds=2.2)) == []


def test_cores_that_a_quota_withheld() -> None:
    """0.5 s of one core in 2 s of window."""
    found = only(with_rank(run_of(calm()), throttled_seconds=0.5))
    assert (found.kind, found.seen[-17:]) == ("CPU quota", "25% of the window")
    assert instabilities(with_rank(run_of(calm()), throttled_seconds=0.001)) == []


def test_what_gpus_tell() -> None:
    sensor = SensorFacts(
        kind="gpu",
        uuid="GPU-1",
        time_ns=[round(1e9 * s) for s in np.linspace(0, 3, 61)],
        readings={"throttle_mask": [0x20] * 30 + [0x1] * 31, "processes": [2] * 61},
    )
    record = with_rank(run_of(calm(), device="cuda"), sensors=[sensor])
    neighbours, throttled = instabilities(record)
    assert (neighbours.kind, neighbours.size) == ("other GPU processes", 1)
    assert throttled.kind == "throttled clocks"
    assert "thermal" in throttled.seen
    idle = sensor.model_copy(update={"readings": {"throttle_mask": [0x1] * 61, "processes": [1] * 61}})
    assert instabilities(with_rank(run_of(calm(), device="cuda"), sensors=[idle])) == []


def test_memory_that_runs_out() -> None:
    record = run_of(calm(), device="cuda")
    tight = MemoryFacts(reserved_peak=78 * 2**30, allocation_retries=0)
    assert only(with_rank(record, memory=tight, device_memory_bytes=80 * 2**30)).kind == "memory nearly full"
    assert instabilities(with_rank(record, memory=tight, device_memory_bytes=141 * 2**30)) == []
    assert only(with_rank(record, memory=MemoryFacts(allocation_retries=3))).kind == "allocator retries"


def test_compiling_in_the_window() -> None:
    assert only(with_rank(run_of(calm()), window_compilations=2)).kind == "recompiled"


def test_more_ranks_than_cores() -> None:
    assert only(run_of(calm(), world_size=2, oversubscribed=True)).kind == "oversubscribed"


def test_hosts_without_a_shared_clock_are_not_judged_by_their_steps() -> None:
    record = run_of(calm() * np.linspace(1, 2, WARM_UP + TIMED), world_size=2)
    far = record.ranks[1].model_copy(update={"host": "host-b"})
    assert instabilities(record.model_copy(update={"ranks": [record.ranks[0], far]})) == []


def test_each_kind_is_one_caution_with_the_worst_of_its_runs() -> None:
    drifting = [run_of(calm() * np.linspace(1, end, WARM_UP + TIMED), repeat=i) for i, end in enumerate((1.1, 1.5))]
    lines = [line for line in answer([*drifting, run_of(calm(), repeat=2)]) if "caution" in line]
    (line,) = lines
    assert "drift in 2 of 3 runs, at worst (ddp on 1 process, fp32)" in line
    assert re.search(r"3[12]\.\d% slower", line)  # the window sees 1.083 to 1.5, about 1.29
    assert "To do:" in line


@pytest.mark.parametrize(("value", "rounded"), [(0.2, 1), (7.1, 8), (43.2, 44), (101, 110), (2345, 2400)])
def test_advised_numbers_have_two_digits(value: float, rounded: int) -> None:
    assert two_digits(value) == rounded


@pytest.mark.parametrize(("late", "sum_to"), [(0.994, "0.6% more"), (1.03, "2.9% less")])
def test_steps_that_do_not_sum_to_another_clock(late: float, sum_to: str) -> None:
    record = run_of(calm())
    start, end = (record.ranks[0].step_end_ns[at] for at in (WARM_UP - 1, -1))

    def with_wall(share: float) -> Record:
        warm_up = ChunkFacts(first_step=0, start_ns=0, end_ns=start, wall_start_ns=7, wall_end_ns=7 + start)
        wall_end = start + round(share * (end - start))
        timed = ChunkFacts(first_step=WARM_UP, start_ns=start, end_ns=end, wall_start_ns=start, wall_end_ns=wall_end)
        return with_rank(record, chunks=[warm_up, timed])

    assert instabilities(with_wall(1.004)) == []
    assert sum_to in only(with_wall(late)).seen
