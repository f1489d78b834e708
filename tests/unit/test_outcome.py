"""From what a rank said to a status, a reason, and how much memory was missing; from several failures to the cause."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from scalebench.harness import cause, shortage
from scalebench.harness.fit import implied_by
from scalebench.harness.job import RankFailure
from scalebench.harness.outcome import failure_outcome, status_of
from scalebench.harness.rank import failure_of
from scalebench.harness.stop import stoppable
from scalebench.records.memory import ShortageFacts
from tests.unit.factory import make_spec

GIB = 2**30
ON_CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 16.81 MiB is "
    "free. Including non-PyTorch memory, this process has 79.09 GiB memory in use. Of the allocated memory 77.97 GiB "
    "is allocated by PyTorch, and 613.05 MiB is reserved by PyTorch but unallocated."
)
ON_CPU = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "9007199254740992 bytes. Error code 12 (Cannot allocate memory)"
)


def failure(kind: str, message: str, rank: int = 0, at_ns: int = 0) -> RankFailure:
    return RankFailure(rank=rank, kind=kind, message=message, at_ns=at_ns)


def test_a_gpu_says_what_was_asked_and_what_there_was() -> None:
    assert shortage.of_message(ON_CUDA) == ShortageFacts(
        asked=20 * GIB, free=round(16.81 * 2**20), limit=round(79.11 * GIB), held=round(79.09 * GIB)
    )


def test_of_a_gpu_of_which_only_a_part_is_allowed_that_part_is_the_limit() -> None:
    allowed = ON_CUDA.replace("Of the allocated", "78.90 GiB allowed; Of the allocated")
    found = shortage.of_message(allowed)
    assert found.limit == round(78.9 * GIB)
    assert found.free == round(78.9 * GIB) - round(77.97 * GIB) - round(613.05 * 2**20)
    assert (found.asked, found.held) == (20 * GIB, round(79.09 * GIB))


def test_a_cpu_says_what_was_asked_and_the_rest_is_looked_up() -> None:
    found = shortage.of_message(ON_CPU)
    assert found.asked == 2**53
    assert found.free is not None
    assert found.limit is not None
    assert 0 <= found.free < found.limit
    assert found.held is not None
    assert found.held > 2**20, "this process is larger than a megabyte"


@pytest.mark.parametrize(
    ("kind", "message", "status"),
    [
        ("RuntimeError", "Timed out waiting 4000ms for recv operation to complete", "timeout"),
        ("DistBackendError", "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=5)", "timeout"),
        ("DistStoreError", "wait timeout after 4000ms, keys: /default_pg/0//rank_1", "timeout"),
        ("RuntimeError", "Connection closed by peer [127.0.0.1]:1", "failed"),
        ("ValueError", "the option timeout is unknown", "failed"),
        ("Hung", "no rank did anything for 4 s", "timeout"),
        ("Killed", "by signal 9 (SIGKILL)", "failed"),
    ],
)
def test_status_of_what_was_said(kind: str, message: str, status: str) -> None:
    assert status_of(failure(kind, message)) == status


def test_a_lack_of_memory_is_an_outcome_with_its_sizes() -> None:
    try:
        raise RuntimeError(ON_CPU)
    except RuntimeError as error:
        outcome = failure_outcome(failure_of(error, 1))
    assert outcome.status == "oom"
    assert outcome.error is not None
    assert outcome.error.rank == 1
    assert "8.39e+06 GiB asked" in (outcome.reason or "")


def test_the_cause_is_a_killed_rank_else_what_was_raised_first() -> None:
    lost = failure("RuntimeError", "Connection closed by peer", rank=0, at_ns=5)
    assert cause.first([lost, failure("Killed", "by signal 9 (SIGKILL)", rank=1, at_ns=9)]).rank == 1
    assert cause.first([lost, failure("ValueError", "mine", rank=1, at_ns=4)]).rank == 1
    aborted = failure("Killed", "by signal 6 (SIGABRT)", rank=1, at_ns=9)
    assert cause.first([lost, aborted]).rank == 1, "the other has only lost it"
    assert cause.first([failure("ValueError", "mine", rank=0, at_ns=5), aborted]).rank == 0


def test_a_kill_is_for_want_of_memory_only_where_a_process_was_killed() -> None:
    killed = failure("Killed", "by signal 9 (SIGKILL)")
    found = cause.for_want_of_memory(killed, 3 * GIB)
    assert failure_outcome(found).status == "oom"
    assert found.shortage is not None
    assert found.shortage.held == 3 * GIB
    worker = failure("RuntimeError", "DataLoader worker (pid 12) is killed by signal: Killed.")
    assert failure_outcome(cause.for_want_of_memory(worker, None)).status == "oom"
    mine = failure("ValueError", "mine")
    assert cause.for_want_of_memory(mine, None) == mine


def test_the_guilty_rank_has_come_least_far_or_waits_for_nobody(tmp_path: Path) -> None:
    waits = (
        'Current thread 0x1 (most recent call first):\n  File "/x/torch/distributed/c10d.py", line 1 in all_reduce\n'
    )
    works = 'Current thread 0x1 (most recent call first):\n  File "/x/model.py", line 7 in forward\n'
    assert cause.guilty({0: (3, 9), 1: (2, 9)}, {0: works, 1: waits}) == 1
    assert cause.guilty({0: (3, 9), 1: (3, 9)}, {0: waits, 1: works}) == 1
    wrapped = waits.replace("/x/torch/distributed/c10d.py", "/x/deepspeed/utils/nvtx.py")
    assert cause.guilty({0: (3, 9), 1: (3, 9)}, {0: wrapped, 1: works}) == 1
    assert cause.place_in(works) == "/x/model.py:7 (forward)"


def test_a_larger_micro_batch_of_what_did_not_fit_does_not_fit() -> None:
    did_not = make_spec(micro_batch=8)
    assert implied_by(make_spec(micro_batch=16, steps=9), [did_not]) == did_not
    assert implied_by(make_spec(micro_batch=8), [did_not]) is None
    assert implied_by(make_spec(micro_batch=16, activation_checkpointing=True), [did_not]) is None
    accumulated = make_spec(micro_batch=8, accumulation=2)
    assert implied_by(make_spec(micro_batch=16), [accumulated]) is None, "it holds no accumulated gradients"


def test_asked_to_stop_once_is_noted_and_twice_is_now() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stoppable() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        assert "SIGTERM" in stop.reason
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_room_that_came_free_only_afterwards_is_not_told_as_if_it_had_been_there() -> None:
    little = shortage.of_message("can't allocate memory: you tried to allocate 4096 bytes")
    assert (little.asked, little.free) == (4096, None)
    assert shortage.sentence(ShortageFacts(asked=2**24, limit=2**29)) == "16 MiB asked, the limit is 512 MiB"
