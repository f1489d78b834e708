"""What a report says of searches, and of strategies each at its own best; trials are never taken for measurements."""

from __future__ import annotations

from typing import Any

import pytest

from scalebench.analysis.cells import cells
from scalebench.analysis.frame import to_frame
from scalebench.analysis.trials import searches, value_of
from scalebench.records.memory import ShortageFacts
from scalebench.records.record import ErrorFacts, Record
from scalebench.reporting.answers import answer
from scalebench.reporting.own_best import own_best
from scalebench.reporting.searches import ending, findings, search_table
from tests.unit.factory import ITEMS_PER_SAMPLE, make_record, make_repeats, make_spec, make_trial

TIMED: dict[str, Any] = {"steps": None, "target_precision": 0.02, "max_seconds": 5.0}


def trials(fitting: dict[int, float], refused: list[int], **fields: Any) -> list[Record]:
    """Trials of micro-batches: a short one of each, and a timed one of those that fit, of so many seconds a step."""
    short = [make_trial(make_spec(micro_batch=value, **fields)) for value in fitting]
    timed = [make_trial(make_spec(micro_batch=value, **fields, **TIMED), step) for value, step in fitting.items()]
    oom = [make_trial(make_spec(micro_batch=value, **fields), status="oom", reason="full") for value in refused]
    made = [*short, *oom, *timed]
    return [record.model_copy(update={"started_at": f"2030-01-01T00:00:{i:02d}"}) for i, record in enumerate(made)]


def test_a_search_says_what_fits_what_does_not_and_what_is_fastest() -> None:
    (found,) = searches(trials({4: 0.1, 8: 0.1, 11: 0.2}, refused=[16, 12]))
    assert found.largest is not None
    assert found.refused is not None
    assert found.fastest is not None
    assert [value_of(found.largest), value_of(found.refused), value_of(found.fastest)] == [11, 12, 8]


def test_a_value_that_was_refused_in_a_longer_run_does_not_fit() -> None:
    made = trials({4: 0.1, 8: 0.1}, refused=[9])
    failing = [r.model_copy(update={"status": "oom"}) if r.spec.steps is None and value_of(r) == 8 else r for r in made]
    (found,) = searches(failing)
    assert found.largest is not None
    assert value_of(found.largest) == 4


def test_a_trial_made_again_counts_as_it_ended_last() -> None:
    spec = make_spec(micro_batch=4)
    first = make_trial(spec, status="failed", reason="a neighbour")
    again = make_trial(spec, repeat=1, started_at="2030-01-01T00:00:09")
    (found,) = searches([first, again])
    assert found.refused is None
    assert found.largest == again


def test_searches_of_different_questions_stay_apart() -> None:
    assert len(searches([make_trial(make_spec(), search="a"), make_trial(make_spec(micro_batch=8), search="b")])) == 2


def test_the_finding_names_both_and_the_reason() -> None:
    (line,) = findings(trials({4: 0.1, 8: 0.1, 11: 0.2}, refused=[16, 12]))
    assert "micro-batch 11 is the largest that fits (micro-batch 12: oom: full)" in line
    rate = f"{8 * ITEMS_PER_SAMPLE / 0.1:,.0f} tokens/s"
    assert f"8 is the fastest of 3 compared, not told apart from 4 and 11: {rate}" in line, "so few steps tell nothing"
    assert "8 trials" in line


@pytest.mark.parametrize("status", ["oom", "failed"])
def test_where_nothing_fits_that_is_said(status: str) -> None:
    (line,) = findings([make_trial(make_spec(micro_batch=1), status=status, reason="full")])
    assert f"nothing fits (micro-batch 1: {status}: full)" in line


def test_trials_are_no_measurements() -> None:
    made = trials({4: 0.1}, refused=[8])
    assert cells(made) == []
    assert answer(made) == []
    assert to_frame(made)["throughput_items_per_second"].isna().all()
    table = search_table(made)
    assert table is not None
    assert len(table.frame) == 1
    assert search_table([make_record()]) is None


def strong(strategy: str, micro_batch: int, step_seconds: list[float], **fields: Any) -> list[Record]:
    batch = {"micro_batch": micro_batch, "accumulation": 8 // micro_batch, "scaling": "strong", "world_size": 2}
    return make_repeats(make_spec(strategy=strategy, **batch, **fields), step_seconds)


def jittered(seconds: float) -> list[float]:
    return [seconds * factor for factor in (0.99, 1.0, 1.01)]


MATCHED = [*strong("ddp", 2, jittered(0.20)), *strong("fsdp", 2, jittered(0.22))]
BEST = [
    *strong("ddp", 4, jittered(0.18)),
    *strong("fsdp", 8, jittered(0.11), activation_checkpointing=True),
]


def test_each_strategy_at_its_own_best_stands_beside_the_matched_comparison() -> None:
    lines = answer([*MATCHED, *BEST])
    text = "\n".join(lines)
    matched, best = (next(line for line in lines if words in line) for words in ("ddp (micro_batch=2", "fsdp (micro_b"))
    assert "ddp (micro_batch=2, accumulation=4) is fastest, +10.0% over fsdp" in matched
    assert "fsdp (micro_batch=8, activation_checkpointing=True) is fastest, +63.6% over ddp (micro_batch=4" in best
    assert "each strategy at its own best:" in text


def test_the_table_says_the_way_and_what_it_gains_over_the_matched_one() -> None:
    ((_, table),) = own_best([*MATCHED, *BEST])
    assert table is not None
    rows = {row["strategy"]: row for _, row in table.frame.iterrows()}
    assert (rows["fsdp"]["micro-batch"], rows["fsdp"]["checkpointing"]) == ("8", "yes")
    assert rows["fsdp"]["over matched"].startswith("2.00×")
    assert rows["ddp"]["over matched"].startswith("1.11×")


def test_where_all_were_measured_in_one_way_nothing_is_added() -> None:
    assert own_best(MATCHED) == []


def test_the_matched_way_may_be_a_strategys_best() -> None:
    slower = strong("fsdp", 8, jittered(0.5))
    ((_, table),) = own_best([*MATCHED, *slower])
    assert table is not None
    assert list(table.frame["over matched"]) == ["matched", "matched"]


def test_an_ending_says_how_much_was_asked_and_had_and_a_timed_one_how_fast_it_was() -> None:
    shortage = ShortageFacts(asked=8 * 2**20, free=5 * 2**20)
    error = ErrorFacts(kind="RuntimeError", message="can't allocate memory", shortage=shortage)
    assert ending(make_trial(make_spec(), status="oom", error=error)) == "oom: 8.00 MiB asked, 5.00 MiB free"
    assert ending(make_trial(make_spec(), status="failed", reason="a neighbour")) == "failed: a neighbour"
    assert ending(make_trial(make_spec())) == "fits"
    assert ending(make_trial(make_spec(**TIMED), 0.1)) == f"fits, {4 * ITEMS_PER_SAMPLE / 0.1:,.0f} tokens/s"
