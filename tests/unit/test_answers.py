"""The answer's lines on records made by hand."""

import re

import pytest

from scalebench.records.record import Record
from scalebench.reporting import answer
from tests.unit.factory import make_parity, make_record, make_repeats, make_spec

FAST = [0.0100, 0.0101, 0.0099, 0.0100, 0.0101]
SLOW = [0.0120, 0.0121, 0.0119, 0.0120, 0.0121]


def repeats(strategy: str, seconds: list[float], world_size: int = 2, **fields: object) -> list[Record]:
    return make_repeats(make_spec(strategy=strategy, world_size=world_size), seconds, **fields)


def test_the_best_is_named_with_its_margin_interval_and_speedup() -> None:
    lines = answer(repeats("single", FAST, 1) + repeats("ddp", FAST) + repeats("fsdp", SLOW))
    assert lines[0] == "gpt tiny on CPU, weak scaling, micro-batch 4 per process:"
    line = next(line for line in lines if "2 processes, fp32" in line)
    found = re.search(r"ddp is fastest, \+(\S+)% over fsdp \(95% interval \+(\S+)% to \+(\S+)%\)", line)
    assert found, line
    margin, low, high = map(float, found.groups())
    assert low < margin < high
    assert margin == pytest.approx(20, abs=0.3)
    assert "2.00× single on 1 process (weak efficiency 100.0%)" in line


def test_equal_strategies_are_no_measurable_difference() -> None:
    lines = answer(repeats("ddp", FAST) + repeats("fsdp", [t * 1.001 for t in reversed(FAST)]) + repeats("fsdp1", SLOW))
    assert "no measurable difference between ddp and fsdp" in lines[1]
    assert "slower: fsdp1" in lines[1]
    assert "fastest" not in lines[1]


def test_one_process_each_supports_no_ranking() -> None:
    lines = answer(repeats("ddp", [0.01]) + repeats("fsdp", [0.1]))
    assert "--repeats 5" in lines[1]
    assert "within-run only" in lines[1]
    assert "fastest" not in lines[1]


def test_one_strategy_is_not_called_the_best() -> None:
    lines = answer(repeats("ddp", FAST))
    assert "only ddp was measured" in lines[1]


def test_sessions_are_not_ranked_against_each_other() -> None:
    """Nothing randomised the two against each other, however large the difference."""
    lines = answer(repeats("ddp", FAST, session="a") + repeats("fsdp", SLOW, session="b"))
    assert "fastest" not in lines[1]
    assert "side by side" in lines[1]


def test_the_session_that_ranks_most_is_ranked_and_others_are_left_out_in_words() -> None:
    together = repeats("ddp", FAST, session="a") + repeats("fsdp", SLOW, session="a")
    line = answer(together + repeats("fsdp1", [0.001] * 5, session="b"))[1]
    assert "ddp is fastest" in line
    assert "fsdp1: too few processes in the session ranked" in line


def test_what_was_not_measured_is_said_and_never_ranked() -> None:
    records = repeats("ddp", FAST) + repeats("fsdp", SLOW)
    records += repeats("deepspeed_stage_2_offload", [0.001] * 5, functional_only="nothing to offload to")
    records += repeats("deepspeed_stage_3", [0.001], status="oom", reason="out of memory")
    line = answer(records)[1]
    assert "ddp is fastest" in line
    assert "deepspeed_stage_2_offload: functional only" in line
    assert "deepspeed_stage_3: oom" in line
    debugged = answer(repeats("ddp", FAST, comparable=False, not_comparable_because=["NCCL_DEBUG=INFO was set", "x"]))
    assert debugged[1].endswith("nothing was measured; ddp: not comparable: NCCL_DEBUG=INFO was set")
    oversubscribed = answer(repeats("ddp", FAST, oversubscribed=True))[1]
    assert "nothing was measured" in oversubscribed
    assert "oversubscribed" in oversubscribed


def test_other_options_of_one_strategy_are_told_apart() -> None:
    spec = make_spec(strategy="fsdp", world_size=2, strategy_options={"reshard_after_forward": False})
    line = answer(repeats("fsdp", FAST) + make_repeats(spec, SLOW))[1]
    assert "fsdp is fastest" in line
    assert "over fsdp (reshard_after_forward=False)" in line


def test_whole_configurations_are_told_apart_by_a_hash() -> None:
    configs = [{"config": {"zero_optimization": {"stage": 2, "overlap_comm": value}}} for value in (False, True)]
    specs = [make_spec(strategy="deepspeed", world_size=2, strategy_options=options) for options in configs]
    line = answer(make_repeats(specs[0], FAST) + make_repeats(specs[1], SLOW))[1]
    names = re.findall(r"deepspeed \(config=[0-9a-f]{6}\)", line)
    assert len(set(names)) == 2
    assert "zero_optimization" not in line


def test_different_experiments_have_different_headings() -> None:
    lines = answer([make_record(make_spec()), make_record(make_spec(seed=7))])
    headings = [line for line in lines if line.endswith(":")]
    assert len(set(headings)) == 2
    assert any("seed 7" in line for line in headings)


def test_a_failed_parity_check_is_a_caution() -> None:
    lines = answer([*repeats("ddp", FAST), make_parity(make_spec(world_size=2), passed=False)])
    assert any("ddp on 2 ranks in fp32 failed its parity check" in line for line in lines)


def test_what_failed_its_parity_check_is_never_the_fastest() -> None:
    spec = make_spec(strategy="fsdp1", world_size=2)
    records = repeats("ddp", FAST) + repeats("fsdp", SLOW) + repeats("fsdp1", [0.005] * 5)
    assert "fsdp1 is fastest" in answer([*records, make_parity(spec)])[1]
    assert "fsdp1 is fastest" in answer([*records, make_parity(make_spec(strategy="fsdp1"), passed=False)])[1], "1 rank"
    line = answer([*records, make_parity(spec, passed=False)])[1]
    assert "ddp is fastest" in line
    assert "over fsdp (" in line
    assert line.endswith("fsdp1: failed its parity check, so it is not ranked")


def test_a_later_check_that_is_passed_restores_a_strategy() -> None:
    spec = make_spec(strategy="ddp", world_size=2)
    failed = make_parity(spec, passed=False, started_at="2030-01-01T00:00:00+00:00")
    passed = make_parity(spec, session="s2", started_at="2030-01-02T00:00:00+00:00")
    records = repeats("ddp", FAST) + repeats("fsdp", SLOW)
    assert "ddp is fastest" in answer([*records, failed, passed])[1]
    assert "only fsdp counts" in answer([*records, failed])[1]
    lone = make_parity(make_spec(strategy="fsdp", world_size=2), passed=False)
    assert "nothing counts" in answer([*records, failed, lone])[1]


def test_a_busy_machine_is_a_caution() -> None:
    record = make_record(make_spec(), 0.01)
    busy = record.ranks[0].model_copy(update={"cpu_seconds": 0.04, "host_busy_seconds": 0.1})
    lines = answer([record.model_copy(update={"ranks": [busy]})])
    assert any("caution: CPU taken by others" in line for line in lines)


def test_an_interval_that_says_nothing_is_not_printed_as_digits() -> None:
    lines = answer(repeats("ddp", [0.01, 0.05]) + repeats("fsdp", [0.02, 0.04]))
    assert "no measurable difference" in lines[1]
    assert "wider than 10-fold" in lines[1]


def test_no_records_no_answer() -> None:
    assert answer([]) == []
