"""What is random about a sample depends on seed, purpose and draw alone, and is as random as it should be."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalebench.data.draws import Draws
from scalebench.data.tokens import synthetic_samples

NOISE = Draws(seed=3, purpose="noise")
draws = st.lists(st.integers(0, 2**62), min_size=1, max_size=5)


@given(draws, draws)
def test_a_draw_gives_the_same_whoever_asks(first, second):
    together = NOISE.normal(first + second, 2, 3)
    assert together.shape == (len(first) + len(second), 2, 3)
    assert torch.equal(together, torch.cat([NOISE.normal(first, 2, 3), NOISE.normal(second, 2, 3)]))
    assert torch.equal(together, NOISE.normal(torch.tensor(first + second), 2, 3))
    assert torch.equal(NOISE.integers(first + second, 10)[: len(first)], NOISE.integers(first, 10))
    assert torch.equal(NOISE.uniform(first + second)[: len(first)], NOISE.uniform(first))


def test_every_draw_seed_and_purpose_has_its_own_numbers():
    others = [NOISE, Draws(seed=4, purpose="noise"), Draws(seed=3, purpose="times"), Draws(seed=-3, purpose="noise")]
    values = torch.cat([one.normal(range(100), 1) for one in others])
    assert len(values.unique()) == len(values)


def test_neighbouring_draws_are_independent_and_normal():
    values = NOISE.normal(range(2000), 50).double()
    count = values.numel()
    assert abs(values.mean()) < 5 / math.sqrt(count)
    assert values.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / count))
    for pair in (values[1:] * values[:-1], values[:, 1:] * values[:, :-1]):
        assert abs(pair.mean()) < 5 / math.sqrt(pair.numel())


def test_integers_and_uniform_are_even():
    counts = NOISE.integers(range(10_000), 10).bincount(minlength=10)
    assert ((counts - 1000).square() / 1000).sum() < 34  # chi-squared, 9 degrees of freedom, p about 1e-4
    tenths = (10 * NOISE.uniform(range(10_000))).long().bincount(minlength=10)
    assert ((tenths - 1000).square() / 1000).sum() < 34


def test_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(5)
    untouched = torch.get_rng_state()
    NOISE.normal([1, 2], 3)
    assert torch.equal(torch.get_rng_state(), untouched)


def test_a_source_shows_the_same_sample_in_every_epoch():
    source = synthetic_samples(seed=0, context_length=4, vocab_size=9, count=5)
    first, second = (source.__getitems__(torch.tensor([epoch * 5 + 2])) for epoch in (0, 3))
    assert torch.equal(first["tokens"], second["tokens"])
