"""The loader: endless steps of micro-batches, the same whatever fetches them."""

import itertools

import pytest
import torch

import scalebench.data
from scalebench.data.batches import FETCHED_SAMPLES
from scalebench.data.sampler import GlobalBatchSampler
from scalebench.data.tokens import synthetic_samples
from scalebench.errors import UserError

CPU = torch.device("cpu")
SHARING = {"micro_batch": 2, "accumulation": 3, "rank": 1, "world_size": 2, "seed": 7}


def source_of(count):
    return synthetic_samples(seed=0, context_length=5, vocab_size=1000, count=count)


def wanted(source, steps):
    """The steps' micro-batches, fetched one by one straight from the sampler's indices."""
    sampler = GlobalBatchSampler(len(source), **SHARING)
    found = []
    for epoch in range(steps):
        sampler.set_epoch(epoch)
        found.extend(
            [source.__getitems__(part) for part in indices.split(SHARING["micro_batch"])] for indices in sampler
        )
    return found[:steps]


def same(left, right):
    return all(
        torch.equal(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in ("tokens", "targets")
    )


@pytest.mark.parametrize("count", [12, 30, 1000])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_steps_follow_the_sampler_epoch_after_epoch(count, num_workers):
    source = source_of(count)
    steps = 2 * FETCHED_SAMPLES // 6 + 3
    loaded = scalebench.data.loader(source, **SHARING, device=CPU, num_workers=num_workers)
    for step, expected in zip(itertools.islice(loaded, steps), wanted(source, steps), strict=True):
        assert len(step) == SHARING["accumulation"]
        assert same(step, expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_leaves_the_global_random_state_alone(num_workers):
    before = torch.get_rng_state()
    next(scalebench.data.loader(source_of(50), **SHARING, device=CPU, num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_larger_than_a_fetch_is_whole():
    source = source_of(400)
    loaded = scalebench.data.loader(source, micro_batch=50, accumulation=4, device=CPU)
    for _ in range(3):
        assert [batch["tokens"].shape for batch in next(loaded)] == [(50, 5)] * 4


def test_too_little_data_is_an_error_before_the_first_step():
    with pytest.raises(UserError, match="global batch of 12"):
        scalebench.data.loader(source_of(11), **SHARING, device=CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_copies_on_cuda_are_whole_while_steps_run():
    device = torch.device("cuda", 0)
    source = source_of(1000)
    steps = 4 * FETCHED_SAMPLES // 6
    loaded = scalebench.data.loader(source, **SHARING, device=device)
    busy = torch.randn(2048, 2048, device=device)
    seen = []
    for step in itertools.islice(loaded, steps):
        busy = (busy @ busy).tanh()  # keeps the stream behind the host, as a model would
        seen.append([{name: tensor.clone() for name, tensor in batch.items()} for batch in step])
    for step, expected in zip(seen, wanted(source, steps), strict=True):
        assert same([{name: tensor.cpu() for name, tensor in batch.items()} for batch in step], expected)
