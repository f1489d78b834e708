"""The sampler: who gets which sample, for any way of sharing a global batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalebench.data.sampler import GlobalBatchSampler, epoch_permutation
from scalebench.errors import UserError

small = st.integers(1, 4)


def steps_of(samples, epoch=0, **sharing):
    sampler = GlobalBatchSampler(samples, **sharing)
    sampler.set_epoch(epoch)
    return [indices.tolist() for indices in sampler]


@given(small, small, small, st.integers(0, 50), st.integers(), st.integers(0, 5))
def test_ranks_share_what_one_process_sees(micro_batch, accumulation, world_size, extra, seed, epoch):
    samples = micro_batch * accumulation * world_size + extra
    alone = steps_of(samples, epoch, micro_batch=micro_batch, accumulation=accumulation * world_size, seed=seed)
    ranks = [
        steps_of(
            samples, epoch, micro_batch=micro_batch, accumulation=accumulation, rank=r, world_size=world_size, seed=seed
        )
        for r in range(world_size)
    ]
    for step, together in enumerate(alone):
        for g in range(accumulation * world_size):
            rank, position = divmod(g, accumulation)
            own = ranks[rank][step][position * micro_batch : (position + 1) * micro_batch]
            assert own == together[g * micro_batch : (g + 1) * micro_batch]


@given(small, small, small, st.integers(0, 50), st.integers())
def test_an_epoch_shows_each_sample_at_most_once_and_leaves_out_less_than_a_step(m, a, w, extra, seed):
    samples = m * a * w + extra
    shown = [
        index
        for rank in range(w)
        for step in steps_of(samples, micro_batch=m, accumulation=a, rank=rank, world_size=w, seed=seed)
        for index in step
    ]
    assert len(shown) == len(set(shown))
    assert set(shown) <= set(range(samples))
    later = steps_of(samples, epoch=3, micro_batch=m, accumulation=a, world_size=w, seed=seed)
    assert {draw for step in later for draw in step} <= set(range(3 * samples, 4 * samples))
    assert samples - len(shown) < m * a * w
    assert len(shown) == len(GlobalBatchSampler(samples, micro_batch=m, accumulation=a, world_size=w)) * m * a * w


def test_each_epoch_and_each_seed_has_its_own_order():
    orders = [tuple(epoch_permutation(100, seed, epoch).tolist()) for seed in (0, 1, 2**32, -1) for epoch in range(3)]
    assert len(set(orders)) == 12
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert tuple(epoch_permutation(100, 0, 0).tolist()) == orders[0]


def test_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(5)
    first = steps_of(20, micro_batch=2)
    untouched = torch.get_rng_state()
    torch.manual_seed(6)
    assert steps_of(20, micro_batch=2) == first
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), untouched)


def test_positions_are_spread_evenly():
    first = torch.tensor([epoch_permutation(10, seed=3, epoch=epoch)[0].item() for epoch in range(2000)])
    counts = first.bincount(minlength=10)
    assert ((counts - 200).square() / 200).sum() < 34  # chi-squared, 9 degrees of freedom, p about 1e-4


def test_less_data_than_one_global_batch_is_an_error_with_a_remedy():
    with pytest.raises(UserError, match=r"23 samples.*global batch of 24 \(2 .* 3 .* 4 ranks\).*--data.*--micro-batch"):
        GlobalBatchSampler(23, micro_batch=2, accumulation=3, world_size=4)
    assert len(GlobalBatchSampler(24, micro_batch=2, accumulation=3, world_size=4)) == 1
