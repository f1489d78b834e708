"""Job steps and throughput on boundary times made by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebench.analysis.steps import data_wait_share, foreign_cpu_cores, job_spans, sum_over_wall, window
from scalebench.records.record import ChunkFacts
from tests.unit.factory import ITEMS_PER_SAMPLE, make_rank, make_record, make_spec

SECOND = 10**9


def test_job_steps_run_between_the_last_ranks_boundaries() -> None:
    """Two ranks take turns at being 0.2 s late: every job step lasts 1 s, while the longest durations say 1.2 s."""
    ends = [[1.0, 2.2, 3.0, 4.2, 5.0], [1.2, 2.0, 3.2, 4.0, 5.2]]
    ranks = [make_rank(r, [round(t * SECOND) for t in times]) for r, times in enumerate(ends)]
    measured = window(make_record(make_spec(world_size=2, warmup_steps=1, steps=4), ranks=ranks))
    assert measured is not None
    assert measured.step_seconds is not None
    assert measured.step_seconds.tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0])
    longest = np.diff(ends, axis=1).max(axis=0)
    assert longest.tolist() == pytest.approx([1.2, 1.2, 1.2, 1.2])


@given(st.lists(st.lists(st.integers(1, 10**9), min_size=6, max_size=6), min_size=1, max_size=4))
def test_steps_sum_to_the_wall_and_never_exceed_the_sum_of_longest_durations(durations: list[list[int]]) -> None:
    ends = np.cumsum(durations, axis=1)
    ranks = [make_rank(r, times) for r, times in enumerate(ends.tolist())]
    measured = window(make_record(make_spec(world_size=len(ranks)), ranks=ranks))
    assert measured is not None
    assert measured.step_seconds is not None
    assert measured.step_seconds.sum() == pytest.approx(measured.wall_seconds)
    assert measured.wall_seconds * SECOND == pytest.approx(ends.max(axis=0)[5] - ends.max(axis=0)[1])
    starts = np.concatenate([np.zeros((len(ranks), 1)), ends[:, :-1]], axis=1)
    whole = job_spans(ranks)[-1, 1]
    assert whole <= (ends - starts).max(axis=0).sum() + 1e-6


def read_around(*chunks: tuple[int, float, float]) -> list[ChunkFacts]:
    """Chunks by first step, start and end in seconds; the other clock began 1000 s earlier."""
    return [
        ChunkFacts(
            first_step=first,
            start_ns=round(start * SECOND),
            end_ns=round(end * SECOND),
            wall_start_ns=round((1000 + start) * SECOND),
            wall_end_ns=round((1000 + end) * SECOND),
        )
        for first, start, end in chunks
    ]


def test_the_windows_steps_are_held_against_another_clock() -> None:
    """Two ranks, six steps of 1 s, the window from step 2 on in two chunks; then the second chunk's end comes late."""
    ends = [round(t * SECOND) for t in (1, 2, 3, 4, 15, 16)]
    first = read_around((0, 0.0, 2.0), (2, 2.0, 4.0), (4, 14.0, 16.0))
    second = read_around((0, 0.0, 2.0), (2, 1.9, 3.9), (4, 13.9, 15.9))
    ranks = [make_rank(0, ends, chunks=first), make_rank(1, ends, chunks=second)]
    spec = make_spec(world_size=2)
    assert sum_over_wall(make_record(spec, ranks=ranks)) == pytest.approx(0.0)
    late = [make_rank(0, ends, chunks=read_around((0, 0.0, 2.0), (2, 2.0, 4.0), (4, 14.0, 16.5))), ranks[1]]
    assert sum_over_wall(make_record(spec, ranks=late)) == pytest.approx(4.0 / 4.5 - 1)
    assert sum_over_wall(make_record(spec, ranks=[make_rank(r, ends) for r in range(2)])) is None


def test_throughput_is_items_over_the_windows_wall() -> None:
    """4 steps of 0.1, 0.1, 0.1 and 0.5 s after warm-up: 0.8 s of wall, not the mean of the four rates."""
    spec = make_spec(world_size=2, micro_batch=4, accumulation=3)
    measured = window(make_record(spec, [9.0, 9.0, 0.1, 0.1, 0.1, 0.5]))
    assert measured is not None
    assert measured.items_per_second == pytest.approx(4 * (4 * 3 * 2 * ITEMS_PER_SAMPLE) / 0.8)


def test_hosts_without_a_shared_clock_give_totals_only() -> None:
    """The second host's clock is a thousand seconds ahead and its window 0.1 s longer."""
    ends = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    far = [1000.0 + end + (0.1 if i == 5 else 0.0) for i, end in enumerate(ends)]
    ranks = [
        make_rank(0, [round(t * SECOND) for t in ends]),
        make_rank(1, [round(t * SECOND) for t in far], host="host-b"),
    ]
    measured = window(make_record(make_spec(world_size=2), ranks=ranks))
    assert measured is not None
    assert measured.step_seconds is None
    assert measured.wall_seconds == pytest.approx(4.1)


def test_gpu_events_of_one_host_share_its_clock() -> None:
    ranks = [make_rank(r, [SECOND * (k + 1) for k in range(6)], clock="cuda-event") for r in range(2)]
    measured = window(make_record(make_spec(world_size=2, device="cuda"), ranks=ranks))
    assert measured is not None
    assert measured.step_seconds is not None


def test_runs_that_did_not_finish_have_no_window() -> None:
    assert window(make_record(status="oom")) is None
    assert window(make_record(ranks=[make_rank(0, [1, 2, 3])])) is None
    assert window(make_record(make_spec(world_size=2), ranks=[make_rank(0, [1, 2, 3, 4, 5, 6])])) is None


def test_waiting_for_data_is_a_share_of_the_window_alone() -> None:
    ends = [SECOND * (k + 1) for k in range(6)]
    waits = [9 * SECOND, 9 * SECOND, SECOND // 2, 0, SECOND // 2, 0]
    assert data_wait_share(make_record(ranks=[make_rank(0, ends, data_wait_ns=waits)])) == pytest.approx(0.25)
    assert data_wait_share(make_record()) is None


def test_foreign_load_is_what_the_ranks_did_not_use() -> None:
    """8 CPU seconds on the host in a 4 s window, of which two ranks used 3 each: others kept half a core busy."""
    ends = [SECOND * (k + 1) for k in range(6)]
    ranks = [make_rank(r, ends, cpu_seconds=3.0, host_busy_seconds=8.0) for r in range(2)]
    assert foreign_cpu_cores(make_record(make_spec(world_size=2), ranks=ranks)) == pytest.approx(0.5)
    assert foreign_cpu_cores(make_record()) is None
