"""The doctor's real collectives: two ranks per backend, healthy and with a fault put in."""

from __future__ import annotations

import pytest

from scalebench.doctor import collectives

pytestmark = pytest.mark.distributed


@pytest.mark.slow
def test_gloo_and_deepspeed_reduce_rightly() -> None:
    for check, strategy in ((collectives.gloo, "ddp"), (collectives.deepspeed, "deepspeed_stage_2")):
        (finding,) = check()
        assert finding.status == "ok", finding
        assert finding.seen.startswith(strategy)


def test_ranks_that_cannot_meet_are_a_problem_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    (finding,) = collectives.gloo()
    assert finding.status == "problem"
    assert "nowhere0" in finding.seen


def test_a_launch_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "RUN_SECONDS", 0.5)
    (finding,) = collectives.gloo()
    assert (finding.status, "hung" in finding.seen) == ("problem", True)
