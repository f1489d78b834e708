"""Small batches for the image workloads, made here rather than read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalebench import workloads
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.construct import build_on_meta, materialise_

CPU = torch.device("cpu")

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("classifier", {"network": "mlp", "image_size": 6, "dropout": 0.0}),
    "conv": ("classifier", {"network": "conv", "image_size": 10, "width": 4, "hidden_size": 8, "dropout": 0.0}),
    "segmentation": ("segmentation", {"image_size": 32, "width": 8, "aspp_channels": 16, "num_classes": 4}),
    "vavae": ("vavae", {"image_size": 8, "width": 8, "norm_groups": 4, "condition_dim": 11}),
}
"""Shapes that take milliseconds, by a name of their own: workload and options of its smallest size."""


def made(name: str, **options: Any) -> Any:
    """The workload of a small shape."""
    workload, shape = SMALL[name]
    return workloads.create(workload, workloads.size_names(workload)[0], {**shape, **options})


def built(workload: Any, config: TrainConfig | None = None) -> torch.nn.Module:
    """Its module with start values on the CPU."""
    config = config or TrainConfig()
    module = build_on_meta(workload, config)
    materialise_(module, workload, config, CPU)
    return module


def batch_of(workload: Any, samples: int, seed: int = 0, device: str = "cpu") -> dict[str, Tensor]:
    """Random samples of the workload."""
    config, generator = workload.config, torch.Generator().manual_seed(seed)
    side, channels = config.image_size, getattr(config, "channels", 3)
    batch = {"images": torch.randint(256, (samples, channels, side, side), generator=generator, dtype=torch.uint8)}
    if workload.name == "classifier":
        batch["labels"] = torch.randint(config.num_classes, (samples,), generator=generator)
    elif workload.name == "segmentation":
        halves = torch.randint(config.num_classes, (samples, 1, 2), generator=generator)
        batch["masks"] = halves.repeat_interleave(side // 2, 2).repeat(1, side, 1)
        batch["masks"][:, :3] = 255
    else:
        batch["noise_keys"] = torch.randint(2**62, (samples,), generator=generator)
        if config.condition_dim:
            batch["condition"] = torch.randn(samples, config.condition_dim, generator=generator)
    return {name: value.to(device) for name, value in batch.items()}
