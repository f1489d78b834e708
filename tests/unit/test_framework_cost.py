"""The arithmetic of the study of what frameworks cost, against scipy and by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from scipy import stats

from scalebench.records.record import Record
from tests.benchmarks import framework_cost
from tests.unit.factory import make_record


def framework_block(number: int, seconds: dict[str, float]) -> list[Record]:
    return [
        make_record(framework_cost.spec("10 ms", name, 1), value, repeat=number, session=f"s{number}")
        for name, value in seconds.items()
    ]


def test_the_cost_of_a_framework_is_the_mean_ratio_of_whole_blocks() -> None:
    whole = [(0.010, 0.011, 0.012, 0.01, 0.015), (0.012, 0.0126, 0.0138, 0.012, 0.02)]
    records = [
        record
        for number, values in enumerate(whole)
        for record in framework_block(number, dict(zip(framework_cost.VARIANTS, values, strict=True)))
    ]
    blocks = framework_cost.whole_blocks([*records, *framework_block(2, {"ddp": 0.5})], ranks=1)
    assert {number for _, number, _ in blocks} == {0, 1}
    lightning = list(framework_cost.cost_rows(list(blocks.values()), "10 ms"))[1]
    ratios = [1.1, 1.05]
    interval = stats.t.interval(0.95, 1, np.mean(np.log(ratios)), stats.sem(np.log(ratios)))
    assert lightning[:3] == ["10 ms", "lightning_ddp", "2"]
    assert lightning[4] == f"{stats.gmean(ratios):.3f}"
    assert lightning[5] == f"{math.exp(interval[0]):.3f} – {math.exp(interval[1]):.3f}"


def test_a_study_of_frameworks_goes_on_with_the_blocks_that_are_not_whole() -> None:
    records = [
        *framework_block(0, dict.fromkeys(framework_cost.VARIANTS, 0.01)),
        *framework_block(1, {"ddp": 0.01}),
    ]
    left = list(framework_cost.missing(framework_cost.whole_blocks(records, 1), 3, seed=0, ranks=1))
    of_10_ms = [run for run in left if run.spec == framework_cost.spec("10 ms", run.spec.strategy, 1)]
    assert Counter(run.repeat for run in of_10_ms) == {1: 5, 2: 5}
    assert {run.spec.strategy for run in of_10_ms} == set(framework_cost.VARIANTS)
    assert Counter(run.repeat for run in left if run not in of_10_ms) == {0: 5, 1: 5, 2: 5}
