"""Small transformers on the CPU, for the tests of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from scalebench import workloads
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.construct import build_on_meta, materialise_
from scalebench.workloads.base import Workload


def built(name: str, config: TrainConfig | None = None, **options: Any) -> tuple[Workload, nn.Module]:
    """The tiny size's workload and module, with its start values."""
    workload = workloads.create(name, "tiny", options)
    config = config or TrainConfig()
    module = build_on_meta(workload, config)
    materialise_(module, workload, config, torch.device("cpu"))
    return workload, module


def moved(module: nn.Module) -> nn.Module:
    """`module` away from its start values, whose zeros hide all else."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module


def graphs_of(workload: Workload, module: nn.Module, batch: dict[str, Tensor]) -> int:
    """How many graphs its regions are, each compiled in one piece, which must leave the loss as it is."""
    torch._dynamo.reset()
    expected = module(batch)
    counter = CompileCounterWithBackend("aot_eager")
    for name in workload.compiled_names(module):
        module.get_submodule(name).compile(dynamic=False, fullgraph=True, backend=counter)
    loss = module(batch)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch._dynamo.reset()
    return counter.frame_count


def batch_of(workload: Workload, samples: int = 3) -> dict[str, Tensor]:
    """The first synthetic samples."""
    return workload.samples("synthetic", 0).__getitems__(range(samples))
