"""Each cause, from facts made by hand of which its seconds are known; what is named first; what cannot be judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from scalebench.analysis.bottleneck import Explanation, explain
from scalebench.analysis.causes import Limit
from scalebench.analysis.stragglers import spread
from scalebench.records.batch_effect import BatchEffect
from scalebench.records.communication import CollectiveFacts, CommunicationFacts
from scalebench.records.device import SensorFacts
from scalebench.records.loading import LoaderRate
from scalebench.records.memory import MemoryFacts
from scalebench.records.phases import PhaseFacts
from scalebench.records.probe import LatencyFit, Probe
from scalebench.records.record import Record
from tests.unit.factory import make_record, make_spec
from tests.unit.test_probe import make_probe

STEP, WARM_UP, TIMED = 0.1, 10, 40
WINDOW = STEP * TIMED
Changes = dict[str, Any]


def run_of(*ranks: Changes, steps: Sequence[float] = (), **spec: Any) -> Record:
    """Steps of 100 ms on as many ranks; each did nothing but compute, unless its changes say otherwise.

    Every rank ran for the whole window and never waited for a core, and no batch of another size took less.
    """
    fields = make_spec(world_size=len(ranks), warmup_steps=WARM_UP, steps=TIMED, **spec)
    record = make_record(fields, [STEP] * WARM_UP + list(steps or [STEP] * TIMED))
    used = WINDOW * len(ranks)
    calm: Changes = {
        "data_wait_ns": [0] * (WARM_UP + TIMED), "main_thread_seconds": WINDOW, "cpu_wait_seconds": 0.0,
        "throttled_seconds": 0.0, "cpu_seconds": WINDOW, "host_busy_seconds": used, "batch_effect": effect(100, 50),
        "communication": exchange(0.0) if len(ranks) > 1 else None,
    }  # fmt: skip
    facts = [rank.model_copy(update=calm | changes) for rank, changes in zip(record.ranks, ranks, strict=True)]
    return record.model_copy(update={"ranks": facts})


def effect(own: float, other: float, other_micro_batch: int = 2) -> BatchEffect:
    """Milliseconds of a step with the own micro-batch, of 4, and with another; one of three steps was disturbed."""
    own_ns, other_ns = ([round(ms * 1e6), round(ms * 1e6), 10**12] for ms in (own, other))
    return BatchEffect(clock="cpu", other_micro_batch=other_micro_batch, own_ns=own_ns, other_ns=other_ns)


def exchange(exposed: float, total: float | None = None, count: int = 10) -> CommunicationFacts:
    kind = CollectiveFacts(
        kind="all_reduce", ranks=2, dtype="float32", count=count, payload_bytes=10**6, seconds=total or exposed
    )
    times = {"step_seconds": STEP, "total_seconds": total or exposed, "exposed_seconds": exposed}
    return CommunicationFacts(backend="gloo", collectives=[kind], **times)


def explained(record: Record, probes: Sequence[Probe] = ()) -> Explanation:
    found = explain(record, probes)
    assert found is not None
    assert found.step_seconds == pytest.approx(STEP)
    assert [limit.seconds for limit in found.limits] == sorted((limit.seconds for limit in found.limits), reverse=True)
    return found


def first(record: Record, probes: Sequence[Probe] = ()) -> tuple[str, float]:
    """What is named first, and its milliseconds."""
    limit = named(record, probes)
    return limit.cause, pytest.approx(limit.seconds * 1e3)


def named(record: Record, probes: Sequence[Probe] = ()) -> Limit:
    limit = explained(record, probes).first
    assert limit is not None
    return limit


def waits(milliseconds: float) -> Changes:
    return {"data_wait_ns": [round(milliseconds * 1e6)] * (WARM_UP + TIMED)}


def test_a_run_that_only_computes_has_no_limit() -> None:
    for record in (run_of({}), run_of({}, {})):
        assert explained(record).first is None
    assert explain(make_record(status="oom")) is None


def test_data_that_comes_late_to_one_rank_is_waited_for_by_all() -> None:
    idle = {"main_thread_seconds": WINDOW * 0.6}
    record = run_of(waits(0.0) | idle, waits(40.0) | idle)
    assert first(record) == ("data", 40.0)
    assert named(record).remedy.startswith("--num-workers 2 (--loader-rates")


def test_loading_that_computes_makes_no_slow_rank() -> None:
    """40 ms of a rank's step are its loader's: it is late for the others, but its cause is the data."""
    late = run_of(waits(0.0) | {"main_thread_seconds": WINDOW * 0.6}, waits(40.0))
    assert first(late) == ("data", 40.0)
    (slow,) = (limit for limit in explained(late).limits if limit.cause == "slow rank")
    assert slow.seconds == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("rates", "remedy"),
    [
        ({0: 5.0, 1: 9.0, 2: 18.0, 4: 30.0}, "--num-workers 4"),
        ({0: 5.0, 1: 5.0, 2: 6.0, 4: 7.0}, "more workers than 4"),
    ],
)
def test_the_number_of_workers_is_one_that_was_enough(rates: dict[int, float], remedy: str) -> None:
    """Without waits there would be 10 / 0.6 steps a second."""
    measured = [LoaderRate(num_workers=workers, steps=1000, seconds=1000 / rate) for workers, rate in rates.items()]
    found = named(run_of(waits(40.0) | {"loader_rates": measured}))
    assert found.remedy.startswith(remedy)
    assert "16.7 batches/s" in found.evidence


def test_on_a_gpu_only_the_gap_in_its_own_work_counts() -> None:
    phases = PhaseFacts(start_ns=[0], data_ns=[10**7], forward_ns=[1], backward_ns=[1], optimizer_ns=[1])
    assert first(run_of(waits(40.0) | {"phases": phases}, device="cuda")) == ("data", 10.0)


def test_a_quota_stops_every_rank_of_a_host() -> None:
    """2.4 s of two cores in 40 steps."""
    record = run_of(*[{"throttled_seconds": 2.4, "cpu_wait_seconds": 1.2, "main_thread_seconds": 2.8}] * 2)
    assert first(record) == ("CPU quota", 30.0)
    assert explained(record).share(named(record)) == pytest.approx(0.3)


def test_cores_that_others_use() -> None:
    """Each of two ranks waits for 1 s and more; the host did 2 s more than they."""
    ranks = [{"cpu_wait_seconds": wait, "host_busy_seconds": 2 * WINDOW + 2.0} for wait in (1.0, 1.2)]
    assert first(run_of(*ranks)) == ("CPU taken by others", 25.0)


def test_a_rank_that_waits_for_its_own_threads_is_not_robbed() -> None:
    assert explained(run_of({"cpu_wait_seconds": 1.0})).first is None


def test_a_rank_with_more_to_do() -> None:
    record = run_of({"main_thread_seconds": 1.0}, {}, {"main_thread_seconds": 2.0})
    found = named(record)
    assert (found.cause, found.doing, found.seconds * 1e3) == ("slow rank", "waits for rank 1", pytest.approx(62.5))
    assert "not the same for all" in found.remedy
    ranks = spread(record)
    assert ranks is not None
    assert (list(ranks.seconds), ranks.slowest) == (pytest.approx([0.025, 0.1, 0.05]), 1)


def test_a_rank_whose_core_is_shared() -> None:
    shared = {"main_thread_seconds": 2.0, "cpu_wait_seconds": 2.0, "host_busy_seconds": 6.0, "cpu_seconds": 2.0}
    found = named(run_of(shared, {"main_thread_seconds": 2.0, "cpu_seconds": 2.0}))
    assert (found.doing, found.seconds * 1e3) == ("waits for rank 0", pytest.approx(50.0))
    assert found.remedy.startswith("end what else runs on core 0")


def test_no_program_is_blamed_where_none_ran() -> None:
    """One of two ranks waits for 1 s, but nobody else used the host: its own threads took turns."""
    own = {"main_thread_seconds": 2.0, "cpu_wait_seconds": 1.0}
    (slow,) = (c for c in explained(run_of(own, {"main_thread_seconds": 2.0})).limits if c.cause == "slow rank")
    assert slow.seconds == pytest.approx(0.0)
    assert "another program" not in slow.evidence


def test_where_nobody_accounts_for_cores_the_profile_tells_the_slow_rank() -> None:
    unknown = {"main_thread_seconds": None, "cpu_wait_seconds": None}
    record = run_of(unknown | {"communication": exchange(0.05)}, unknown | {"communication": exchange(0.01)})
    assert first(record) == ("slow rank", 40.0)
    assert "rank 1" in named(record).doing


def idle(exposed: float, **fields: Any) -> Changes:
    """A rank that waits for communication."""
    return {"communication": exchange(exposed, **fields), "main_thread_seconds": WINDOW * (1 - exposed / STEP)}


def test_communication_is_that_of_the_last_to_come() -> None:
    """Rank 0 waits 60 ms: 30 for the network as rank 1 does, 30 for rank 1."""
    record = run_of(idle(0.06), idle(0.03))
    found = {limit.cause: pytest.approx(limit.seconds) for limit in explained(record).limits}
    assert found["communication"] == found["slow rank"] == 0.03
    assert "--accumulation 2" in named(run_of(*[idle(0.06)] * 2)).remedy
    assert "--accumulation" not in named(run_of(*[idle(0.06)] * 2, grad_sync="every_micro_batch")).remedy


def test_a_profile_cannot_show_more_communication_than_there_was_time_for() -> None:
    busy = {"communication": exchange(0.06), "main_thread_seconds": WINDOW * 0.9}
    assert first(run_of(busy, busy)) == ("communication", 10.0)


def test_communication_that_is_all_latency_is_a_model_too_small() -> None:
    """10 collectives of 4 ms each, when empty, are two thirds of the 60 ms."""
    line = LatencyFit(name="all_reduce", latency_seconds=4e-3, bytes_per_second=1e9, rms_error=0.0, largest_error=0.0)
    record, probe = run_of(*[idle(0.06)] * 2), make_probe(fits=[line])
    assert first(record, [probe]) == ("latency", 40.0)
    parts = [
        limit.seconds for limit in explained(record, [probe]).limits if limit.cause in ("latency", "communication")
    ]
    assert sum(parts) == pytest.approx(0.06)
    (unknown,) = explained(record).unknown
    assert "scalebench probe --gpus 2" in unknown.reason


@pytest.mark.parametrize(
    ("own", "other", "other_samples", "fixed"), [(100, 80, 2, 60), (100, 50, 2, 0), (100, 40, 2, 0), (60, 110, 8, 10)]
)
def test_a_batch_that_hardly_changes_the_time_is_too_small(
    own: float, other: float, other_samples: int, fixed: float
) -> None:
    """The line through both times, at an empty batch."""
    (found,) = (c for c in explained(run_of({"batch_effect": effect(own, other, other_samples)})).limits
                if c.cause == "small batch")  # fmt: skip
    assert found.seconds * 1e3 == pytest.approx(fixed)
    assert found.remedy == "--micro-batch 8 or --compile"


def test_on_a_gpu_what_ranks_exchange_is_not_the_batch() -> None:
    ranks = {"batch_effect": effect(100, 80), "communication": exchange(0.02)}
    assert first(run_of(ranks, ranks, device="cuda")) == ("small batch", 40.0)


def sensor(**readings: int) -> SensorFacts:
    times = [round(0.05e9 * k) for k in range(101)]
    return SensorFacts(
        kind="gpu", uuid="GPU-1", time_ns=times, max_sm_clock_mhz=2000,
        readings={name: [value] * len(times) for name, value in readings.items()},  # type: ignore[misc]
    )  # fmt: skip


def test_clocks_that_were_held_back() -> None:
    hot = sensor(sm_clock_mhz=1200, throttle_mask=0x20)
    record = run_of({"sensors": [hot]}, device="cuda")
    assert first(record) == ("clocks", 40.0)
    assert "thermal" in named(record).evidence
    chosen = sensor(sm_clock_mhz=1200, throttle_mask=0x2)
    assert explained(run_of({"sensors": [chosen]}, device="cuda")).first is None, "somebody set that clock"


def test_an_allocator_that_asks_twice() -> None:
    steps = np.full(TIMED, 0.09)
    steps[:8] = 0.14
    record = run_of({"memory": MemoryFacts(allocation_retries=3)}, steps=steps.tolist(), device="cuda")
    assert first(record) == ("memory", 10.0)
    assert "--micro-batch 2" in named(record).remedy


def test_what_cannot_be_judged_says_why() -> None:
    nothing = dict.fromkeys(("throttled_seconds", "cpu_wait_seconds", "batch_effect", "communication"), None)
    found = explained(run_of(*[nothing | {"data_wait_ns": []}] * 2))
    assert {unknown.cause for unknown in found.unknown} == {
        "data", "CPU quota", "CPU taken by others", "slow rank", "communication", "small batch",
    }  # fmt: skip
    assert all(unknown.reason for unknown in found.unknown)
    assert found.limits == ()
    lost = CommunicationFacts(backend="gloo", unknown_because="the profiler saw 3 collectives where 4 were issued")
    assert "where 4 were issued" in str(explained(run_of({"communication": lost}, {})).unknown)
    refused = BatchEffect(clock="cpu", other_micro_batch=2, unknown_because="compiled anew")
    assert "compiled anew" in str(explained(run_of({"batch_effect": refused})).unknown)
