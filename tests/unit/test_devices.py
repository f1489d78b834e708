"""Where tensors are, on a stand-in for a GPU: the meta device, whose tensors mix with those of the CPU as little."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scalebench import workloads
from scalebench.data.names import SYNTHETIC

META = torch.device("meta")
SAMPLES = 3


def on_meta(name: str) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """The smallest model of a workload, and a batch of it."""
    size = workloads.size_names(name)[0]
    workload = workloads.create(name, size)
    with META:
        module: Any = workload.build()
    batch = workload.samples(SYNTHETIC, 0).__getitems__(list(range(SAMPLES)))
    return module, {key: tensor.to(META) for key, tensor in batch.items()}


@pytest.mark.parametrize("name", workloads.FAMILIES)
def test_a_training_step_makes_what_it_needs_where_its_batch_is_and_reads_no_value(name: str) -> None:
    """A tensor left on the CPU would not mix, and a value that is read would be waited for in every step."""
    module, batch = on_meta(name)
    loss = module(batch)
    loss.backward()
    assert loss.device == META
    assert {parameter.grad.device for parameter in module.parameters() if parameter.grad is not None} == {META}
