"""What the studies of false alarms and detection compute, on pairs whose truth is known."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tests.benchmarks import detection
from tests.benchmarks.in_turn import Pair, blocks, drawn, live_verdicts
from tests.unit.test_verdicts import pairs


def session(ratio: float, spread: float, count: int) -> list[Pair]:
    return list(zip(*pairs(ratio, spread, count), strict=True))


@pytest.mark.parametrize(("ratio", "outcome", "units"), [(1.2, "slower", 10), (1.0, "same", 10)])
def test_the_whole_rule_ends_at_the_first_look_that_knows(ratio: float, outcome: str, units: int) -> None:
    step = next(verdict for verdict in live_verdicts(session(ratio, 0.01, 40)) if verdict.subject == "step")
    assert step.outcome == outcome
    assert step.compared is not None
    assert step.compared.difference is not None
    assert step.compared.difference.units == units


def test_blocks_are_of_one_session_and_share_no_pair() -> None:
    first, second = session(1.0, 0.01, 7), session(1.0, 0.01, 3)
    assert list(blocks([first, second], 3)) == [first[:3], first[3:6], second]
    random = np.random.default_rng(0)
    for _ in range(20):
        block = drawn(random, [first, second], 5, swap=False)
        assert block in [first[start : start + 5] for start in range(3)]
    swapped = drawn(np.random.default_rng(3), [second], 3, swap=True)
    assert swapped in (second, [(b, a) for a, b in second])


def test_the_edge_of_a_known_gate() -> None:
    """A gate that asks for 10% finds it at 10%, not at 9.5%, and never without any."""
    steps = np.full(20, 0.01)

    def gate(base: detection.Steps, new: detection.Steps) -> bool:
        return bool(np.mean(new) >= 1.0999 * np.mean(base))

    assert detection.edge([[(steps, steps)] * 10], 5, gate, 20) == (pytest.approx(0.10), 0.0)


@pytest.mark.parametrize("name", list(detection.GATES))
def test_every_gate_flags_what_is_plain_and_nothing_equal(name: str) -> None:
    random = np.random.default_rng(0)
    base, same = ([0.01 * np.exp(random.normal(0, 0.01, 50)) for _ in range(10)] for _ in range(2))
    gate = partial(detection.GATES[name], base)
    assert gate([steps * 1.3 for steps in same])
    assert not gate([steps * 0.99 for steps in same])
