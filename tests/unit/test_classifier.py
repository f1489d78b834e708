"""The classifier: its published forms, its loss, and real images that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scalebench import workloads
from scalebench.errors import UserError
from tests.unit.image_batches import batch_of, built, made

PUBLISHED = {"mlp": 55_050, "conv": 1_199_882}
"""Parameters in the model summary of Lightning's MNIST tutorial, and of the network of PyTorch's MNIST example."""


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters_are_the_published_ones(size: str) -> None:
    assert workloads.create("classifier", size).parameter_count() == PUBLISHED[size]


def test_the_perceptron_is_the_tutorials() -> None:
    workload = workloads.create("classifier", "mlp", {"dropout": 0.0})
    module = built(workload)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    plain.load_state_dict(dict(zip(plain.state_dict(), module.state_dict().values(), strict=True)))
    batch = batch_of(workload, 6)
    logits = plain(batch["images"] / 255 * 2 - 1)
    torch.testing.assert_close(module(batch), nn.functional.cross_entropy(logits, batch["labels"]))
    assert torch.equal(module(batch, "generate"), logits.argmax(1))
    right = (logits.argmax(1) == batch["labels"]).float().mean().item()
    assert workload.metrics(module(batch, "metrics"))["accuracy"] == pytest.approx(right)


def test_the_convolutional_one_is_the_examples() -> None:
    workload = made("conv", image_size=28)
    module = built(workload)
    plain = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(8 * 144, 8), nn.ReLU(), nn.Linear(8, 10)),
    )
    plain.load_state_dict(dict(zip(plain.state_dict(), module.state_dict().values(), strict=True)))
    batch = batch_of(workload, 3)
    logits = plain(batch["images"] / 255 * 2 - 1)
    torch.testing.assert_close(module(batch), nn.functional.cross_entropy(logits, batch["labels"]))


def test_it_learns_the_digits() -> None:
    pytest.importorskip("sklearn")
    workload = workloads.create("classifier", "tiny")
    module = built(workload)
    source = workload.samples("digits", seed=0)
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for step in range(200):
        loss = module(source.__getitems__(order[(torch.arange(32) + 32 * step) % 1400]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    unseen = workload.metrics(module(source.__getitems__(order[1400:]), "metrics"))
    assert unseen["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "cnn"}, ["cnn", "mlp", "conv"]),
        ({"network": "conv", "image_size": 5}, ["image_size 5", "at least 6"]),
        ({"num_classes": 0}, ["num_classes", "at least 1"]),
        ({"dropout": 1}, ["dropout", "below 1"]),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        workloads.create("classifier", "mlp", options)
    assert [word for word in words if word not in str(caught.value)] == []
