"""Verdicts on hand-made records: each outcome, each refusal, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from scalebench.analysis.verdicts import Rule, Verdict, decide, match, match_as_asked
from scalebench.records.communication import CollectiveFacts, CommunicationFacts
from scalebench.records.memory import MemoryFacts
from scalebench.records.record import Record
from tests.unit.factory import ENVIRONMENT, make_contract, make_parity, make_record, make_repeats, make_spec

SPEC = make_spec(world_size=2)


def side(times: Sequence[float], session: str = "s1", **fields: Any) -> list[Record]:
    """One process per step time."""
    return make_repeats(SPEC, times, session=session, **fields)


def sessions(factors: Sequence[float], seed: int, name: str) -> list[Record]:
    """Sessions of three processes each, whose times differ by these factors and by 0.5% within."""
    random = np.random.default_rng(seed)
    return [
        record
        for number, factor in enumerate(factors)
        for record in side((0.01 * factor * np.exp(random.normal(0, 0.005, 3))).tolist(), f"{name}{number}")
    ]


def pairs(ratio: float, spread: float, count: int, seed: int = 0) -> tuple[list[Record], list[Record]]:
    """Both sides of one session, repeat by repeat; whatever the machine did it did to both."""
    random = np.random.default_rng(seed)
    common = 0.01 * np.exp(random.normal(0, 0.2, count))
    other = common * ratio * np.exp(random.normal(0, spread, count))
    return side(common.tolist()), side(other.tolist())


def outcomes(base: Sequence[Record], new: Sequence[Record], rule: Rule | None = None) -> dict[str, Verdict]:
    return {verdict.subject: verdict for verdict in decide(match(base, new), rule)}


def step(base: Sequence[Record], new: Sequence[Record], rule: Rule | None = None) -> Verdict:
    return outcomes(base, new, rule)["step"]


@pytest.mark.parametrize(
    ("ratio", "outcome", "worse"),
    [(1.0, "same", False), (1.01, "same", False), (1.2, "slower", True), (0.8, "faster", False)],
)
def test_pairs_of_one_session(ratio: float, outcome: str, worse: bool) -> None:
    found = step(*pairs(ratio, 0.01, 10))
    assert (found.outcome, found.worse, found.open) == (outcome, worse, False)
    assert found.compared is not None
    assert found.compared.unit == "pair"
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.compared.ratio < found.high


def test_same_is_tested_before_slower() -> None:
    """A change that is certain and smaller than the margin matters to nobody; half a margin makes it matter."""
    base, new = pairs(1.02, 0.002, 40)
    assert step(base, new).outcome == "same"
    assert step(base, new, Rule(margin=0.01)).outcome == "slower"
    assert step(base, new, Rule(effects={"step": 0.015})).outcome == "slower"


def test_throughput_is_what_unequal_batches_are_compared_by() -> None:
    """Steps of twice the batch that take 2.5 times as long: 20% fewer items per second."""
    base, new = pairs(2.5, 0.01, 10)
    larger = [r.model_copy(update={"spec": make_spec(world_size=2, micro_batch=8)}) for r in new]
    found = {verdict.subject: verdict for verdict in decide([match_as_asked(base, larger, differ=False)])}
    assert "step" not in found
    assert found["throughput"].match.notes == ["micro_batch 4 -> 8"]
    found = found["throughput"]
    assert (found.outcome, found.worse) == ("slower", True)
    assert found.compared is not None
    assert found.compared.ratio == pytest.approx(0.8, rel=0.01)
    assert found.low is not None
    assert found.low < 0.8


def test_noise_is_inconclusive_and_says_what_it_would_take() -> None:
    found = step(*pairs(1.0, 0.10, 5))
    assert (found.outcome, found.worse, found.open) == ("inconclusive", False, True)
    assert found.needed is not None
    assert found.needed > 20
    assert f"takes about {found.needed} pairs" in found.reason


def test_an_effect_that_the_data_could_not_show_is_no_pass() -> None:
    """The same data: 5% cannot be seen in it, 30% would have been."""
    base, new = pairs(1.0, 0.05, 8, seed=3)
    assert step(base, new, Rule(effects={"step": 0.05})).outcome == "inconclusive"
    found = step(base, new, Rule(effects={"step": 0.30}))
    assert (found.outcome, found.open) == ("not slower", False)
    assert "30.0% slower would have been seen with 95% power" in found.reason


def test_one_process_supports_no_verdict() -> None:
    found = step(side([0.01]), side([0.02], "s2"))
    assert found.outcome == "inconclusive"
    assert found.low is None
    assert "one process" in found.reason


def test_a_baseline_of_two_sessions_points_to_the_live_form() -> None:
    found = step(sessions([1.0, 1.0], 0, "b"), sessions([1.5], 1, "n"))
    assert (found.outcome, found.worse) == ("inconclusive", False)
    assert "the baseline has 2 sessions" in found.reason
    assert "--live" in found.reason


def test_the_spread_between_sessions_counts() -> None:
    """10% slower is shown where sessions agree to 0.5%, and is not where they differ by 10% among themselves."""
    agreeing = sessions([1.0, 1.003, 0.998, 1.001, 0.999], 0, "b")
    differing = sessions([1.0, 1.1, 0.9, 1.05, 0.95], 0, "b")
    assert step(agreeing, sessions([1.1], 1, "n")).outcome == "slower"
    found = step(differing, sessions([1.1], 1, "n"))
    assert found.outcome == "inconclusive"
    assert "sessions of each side" in found.reason


def test_false_alarms_with_resampled_sessions() -> None:
    """A/A: sessions that differ by 2%, processes by 2%: 300 commands, each of three metrics and one new session."""
    random, alarms = np.random.default_rng(7), 0
    for _ in range(300):
        drawn = [
            sessions([float(np.exp(random.normal(0, 0.02)))], int(random.integers(1e9)), f"x{i}") for i in range(5)
        ]
        verdicts = decide(match([r for s in drawn[:4] for r in s], drawn[4]))
        alarms += any(verdict.worse for verdict in verdicts)
    assert alarms <= 8  # 1% of 300 is 3; 9 or more would come once in 250


def communicating(payload: int, count: int) -> CommunicationFacts:
    call = CollectiveFacts(kind="all_reduce", ranks=2, dtype="float32", count=count, payload_bytes=payload)
    return CommunicationFacts(backend="gloo", collectives=[call])


def with_ranks(records: Sequence[Record], **changes: Any) -> list[Record]:
    return [r.model_copy(update={"ranks": [rank.model_copy(update=changes) for rank in r.ranks]}) for r in records]


def test_what_is_counted_is_compared_as_it_is() -> None:
    base, new = pairs(1.0, 0.001, 5)
    base, new = (
        with_ranks(base, communication=communicating(400, 2)),
        with_ranks(new, communication=communicating(404, 1)),
    )
    found = outcomes(base, new)
    assert (found["payload"].outcome, found["payload"].worse) == ("more", True)
    assert (found["collectives"].outcome, found["collectives"].worse) == ("less", False)
    assert found["parameters"].outcome == "same"
    allowed = outcomes(base, new, Rule(effects={"payload": 0.02}))["payload"]
    assert (allowed.outcome, allowed.worse) == ("more", False)


def test_memory_is_exact_where_processes_agree_and_tested_where_not() -> None:
    base, new = pairs(1.0, 0.001, 5)
    exact = outcomes(
        with_ranks(base, memory=MemoryFacts(tensor_peak=1000)), with_ranks(new, memory=MemoryFacts(tensor_peak=1001))
    )
    assert (exact["memory"].outcome, exact["memory"].worse) == ("more", True)
    random = np.random.default_rng(0)

    def resident(records: Sequence[Record], level: float) -> list[Record]:
        values = (level * np.exp(random.normal(0, 0.005, len(records)))).astype(int)
        return [
            with_ranks([record], memory=MemoryFacts(resident_peak=int(value)))[0]
            for record, value in zip(records, values, strict=True)
        ]

    tested = outcomes(resident(base, 1e8), resident(new, 1.001e8))["host-memory"]
    assert tested.outcome == "same"
    assert tested.compared is not None
    assert not tested.compared.exact
    assert outcomes(resident(base, 1e8), resident(new, 1.3e8))["host-memory"].outcome == "more"


REFUSALS = [
    ({"method": 2}, "method 2 -> 3"),
    ({"environment": ENVIRONMENT | {"torch": "2.11.0"}}, "torch 2.11 -> 2.13"),
    ({"environment": ENVIRONMENT | {"cpu_model": "Other"}}, "cpu_model Other -> Example CPU"),
    ({"workload": make_record(SPEC).workload.model_copy(update={"data_sha256": "f" * 8})}, "data ffffffff -> None"),  # type: ignore[union-attr]
    ({"oversubscribed": True}, "baseline: oversubscribed: more ranks than cores"),
    ({"comparable": False, "not_comparable_because": ["--debug"]}, "baseline: not comparable: --debug"),
    ({"status": "oom", "reason": "full"}, "baseline: oom: full"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), REFUSALS, ids=[reason for _, reason in REFUSALS])
def test_what_must_not_be_compared_is_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    found = outcomes(side([0.01, 0.011], "s0", **changes), side([0.02, 0.021], "s2"))
    assert set(found) == {"cell"}
    assert (found["cell"].outcome, found["cell"].worse, found["cell"].open) == ("not comparable", False, True)
    assert found["cell"].reason == reason


def test_another_gpu_is_refused() -> None:
    spec = make_spec(device="cuda", world_size=2)

    def on(gpu: str, session: str) -> list[Record]:
        return with_ranks(make_repeats(spec, [0.01, 0.011], session=session), device_name=gpu)

    assert outcomes(on("A100", "s1"), on("H100", "s2"))["cell"].reason == "GPUs 2 × A100 -> 2 × H100"


def test_of_a_baseline_from_several_machines_the_same_one_is_taken() -> None:
    other = side([0.5, 0.5], "s0", environment=ENVIRONMENT | {"cpu_model": "Other"})
    base, new = pairs(1.0, 0.001, 10)
    assert step([*base, *other], new).outcome == "same"


def test_patch_versions_may_differ_and_are_told() -> None:
    base, new = pairs(1.0, 0.001, 10)
    base = [
        r.model_copy(update={"environment": ENVIRONMENT | {"torch": "2.13.1", "deepspeed": "0.19.0"}}) for r in base
    ]
    found = step(base, new)
    assert found.outcome == "same"
    assert found.match.notes == ["torch 2.13.1 -> 2.13.0+cpu", "deepspeed 0.19.0 -> 0.19.8"]


def test_a_silent_change_of_precision_is_a_regression_by_name() -> None:
    changed = make_contract(SPEC).model_copy(update={"gradient_reduce": "float16"})
    found = outcomes(side([0.01, 0.011]), side([0.01, 0.011], "s2", contract=changed))
    assert (found["cell"].outcome, found["cell"].worse) == ("not comparable", True)
    assert found["cell"].reason == "gradient_reduce float32 -> float16"


def test_what_nobody_looked_at_is_no_change_and_is_told() -> None:
    base, new = pairs(1.0, 0.001, 10)
    found = step(base, [record.model_copy(update={"contract": None}) for record in new])
    assert found.outcome == "same"
    assert found.match.notes == ["what ran was not observed on both sides, so that its precision may have changed"]


def test_a_cell_that_no_longer_runs_is_a_regression() -> None:
    found = outcomes(side([0.01, 0.011]), side([0.01], "s2", status="oom", reason="full"))
    assert (found["cell"].worse, found["cell"].reason) == (True, "oom: full")


@pytest.mark.parametrize(
    ("before", "after", "worse", "reason"),
    [
        (True, False, True, "it no longer trains the same model as single"),
        (None, False, True, "it does not train the same model"),
        (False, False, False, "it does not train the same model"),
        (True, True, False, ""),
    ],
)
def test_parity(before: bool | None, after: bool, worse: bool, reason: str) -> None:
    base, new = pairs(1.0, 0.001, 5)
    base = [*base, *([make_parity(SPEC, before)] if before is not None else [])]
    found = outcomes(base, [*new, make_parity(SPEC, after)])["parity"]
    assert (found.worse, found.reason) == (worse, reason)


def test_cells_of_one_side_alone() -> None:
    base, new = pairs(1.0, 0.001, 5)
    other = make_repeats(make_spec(strategy="fsdp"), [0.01, 0.01])
    assert [v.outcome for v in decide(match([*base, *other], new)) if v.subject == "cell"] == ["missing"]
    assert [v.outcome for v in decide(match(base, [*new, *other])) if v.subject == "cell"] == ["added"]


def own(folder: str, source: str, *sessions: str) -> list[Record]:
    """Two processes of a user's own model per session."""
    spec = make_spec(workload=f"{folder}/net.py:make", size="own", data="own", workload_sha256=source)
    return [record for session in sessions for record in make_repeats(spec, [0.01, 0.0101], session=session)]


def test_a_changed_file_of_ones_own_is_what_is_compared() -> None:
    """Whatever folder it lay in; a baseline's sessions may be of several revisions."""
    base = [*own("/main", "1", "s1"), *own("/main", "2", "s2"), *own("/main", "3", "s3")]
    (found,) = match(base, own("/branch", "4", "s4"))
    assert (found.refused, found.notes) == (None, ["net.make has changed"])
    assert found.base is not None
    assert found.base.sessions == ["s1", "s2", "s3"]
    assert match(own("/main", "1", "s1"), own("/branch", "1", "s2"))[0].notes == []


def test_files_of_one_name_in_two_folders_are_two_cells() -> None:
    side = [*own("/main/one", "1", "s1"), *own("/main/two", "2", "s1")]
    assert [found.base and len(found.base.records) for found in match(side, side)] == [2, 2]


def test_resident_memory_is_never_taken_for_exact() -> None:
    """Every process of a side inherits the same pages, another side's others: a few more of them are no regression."""
    sides = [with_ranks(side([0.01] * 4), memory=MemoryFacts(resident_peak=4096 * pages)) for pages in (80_000, 80_001)]
    found = outcomes(*sides)["host-memory"]
    assert (found.outcome, found.worse) == ("same", False)
