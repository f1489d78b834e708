"""Cells of the gpt workload, small or of ten million parameters, prepared and run on a rank as the harness would."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from scalebench import strategies, workloads
from scalebench.spec import RunSpec
from scalebench.strategies.base import Batch, TrainStep

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"num_layers": 3, "hidden_size": 64, "vocab_size": 259, "context_length": 32}
"""163 thousand parameters, tied as always; the vocabulary divides by no number of ranks."""
LARGE: dict[str, Any] = {"num_layers": 3, "hidden_size": 512, "vocab_size": 4096, "context_length": 8}
"""11.6 million parameters and few tokens, so that steps are quick."""
OPTION_SETS: list[tuple[str, dict[str, Any]]] = [
    ("ddp", {}),
    ("ddp", {"bucket_cap_mb": 5.0}),
    ("fsdp", {}),
    ("fsdp", {"reshard_after_forward": False}),
    ("fsdp_hybrid", {}),
    ("fsdp1", {}),
    ("deepspeed_stage_1", {}),
    ("deepspeed_stage_1", {"overlap_comm": False, "reduce_bucket_size": 1_000_000}),
    ("deepspeed_stage_2", {}),
    ("deepspeed_stage_2", {"reduce_bucket_size": 1_000_000}),
    ("deepspeed_stage_3", {}),
    ("deepspeed_stage_3", {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}),
    ("deepspeed_stage_3", {"stage3_param_persistence_threshold": 10_000}),
    ("deepspeed_stage_3", {"stage3_param_persistence_threshold": 10_000, "stage3_max_live_parameters": 10**9}),
    ("deepspeed_stage_3", {"reduce_bucket_size": 1_000_000}),
]
"""Strategies with the options that decide what they send."""


def cell(
    strategy: str, ranks: int, options: Mapping[str, Any] | None = None, shape: Mapping[str, Any] = SMALL, **fields: Any
) -> RunSpec:
    """One cell on the CPU with the strategy's own rule of reducing gradients unless `fields` say otherwise."""
    defaults: dict[str, Any] = {
        "workload": "gpt",
        "size": "tiny",
        "workload_options": dict(shape),
        "data": "synthetic",
        "strategy": strategy,
        "strategy_options": dict(options or {}),
        "device": "cpu",
        "world_size": ranks,
        "threads_per_rank": 1,
        "micro_batch": 1,
        "grad_sync": strategies.default_grad_sync(strategy),
    }
    return RunSpec(**(defaults | fields))


def share(spec: RunSpec) -> list[Batch]:
    """The micro-batches of one step of one rank."""
    samples = workloads.create(spec.workload, spec.size, spec.workload_options).samples("synthetic", 0)
    rows = [range(i * spec.micro_batch, (i + 1) * spec.micro_batch) for i in range(spec.accumulation)]
    return [samples.__getitems__(list(row)) for row in rows]


@contextlib.contextmanager
def running(spec: RunSpec, steps: int = 3) -> Iterator[tuple[TrainStep, list[Batch]]]:
    """The step of `spec` after some steps, and its micro-batches. ZeRO-3 knows its order of use from the third on."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", tempfile.gettempdir())
    workload = workloads.create(spec.workload, spec.size, spec.workload_options)
    strategy = strategies.create(spec.strategy, spec.strategy_options)
    with contextlib.redirect_stdout(sys.stderr):
        step = strategy.prepare(workload, spec.train_config(), CPU)
    batches = share(spec)
    for _ in range(steps):
        step(batches)
    try:
        yield step, batches
    finally:
        step.close()
