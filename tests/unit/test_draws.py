"""What is random about a sample depends on seed, purpose and draw alone, and is as random as it should be."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scalebench.data.draws import Draws, hashed, normals
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


def splitmix(state):
    """SplitMix64's output for a state, as its authors wrote it down, on Python's whole numbers."""
    z = state % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@given(st.integers(0, 2**64 - 1), st.integers(1, 40))
def test_hashes_are_splitmix64s_and_normals_box_and_mullers(key, count):
    signed = key - 2**64 if key >> 63 else key
    assert hashed(torch.tensor([signed])).item() % 2**64 == splitmix(key)
    pairs = [splitmix(key + step * 0x9E3779B97F4A7C15) for step in range(1, (count + 1) // 2 + 1)]
    radii = [math.sqrt(-2 * math.log(((bits >> 24) + 1) / 2**40)) for bits in pairs]
    angles = [2 * math.pi * (bits % 2**24) / 2**24 for bits in pairs]
    wanted = [wave(a) * r for wave in (math.cos, math.sin) for a, r in zip(angles, radii, strict=True)][:count]
    found = normals(torch.tensor([signed]), count)[0]
    assert found.tolist() == pytest.approx(wanted, abs=2e-5)


def test_the_first_outputs_are_the_published_ones():
    """Of seed 1234567, as implementations of SplitMix64 are commonly tested."""
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix(1234567 + step * 0x9E3779B97F4A7C15) for step in range(1, 5)] == outputs


def test_normals_have_the_normal_distribution():
    values = normals(torch.arange(50) * 7919, 2000).flatten().double()
    assert stats.kstest(values.numpy(), "norm").pvalue > 1e-4
    assert values.abs().max() > 3.9
    halves = normals(torch.arange(200), 2).double()
    assert abs(stats.spearmanr(halves[:, 0], halves[:, 1]).statistic) < 0.3


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
