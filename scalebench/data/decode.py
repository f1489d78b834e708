"""Latents back to images, by the autoencoder that `scalebench data encode` has made them with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalebench import workloads
from scalebench.data.encode import MANIFEST, trained
from scalebench.data.names import parse
from scalebench.workloads.checkpoint_name import checkpoint_sha256, split_name
from scalebench.workloads.values import to_bytes


def decoder_of(data: str) -> Callable[[Tensor], Tensor] | None:
    """Of the latents that a spec's `data` names: makes (n, channels, side, side) uint8 images (n, channels, ...).

    None where it is not known what made them, where that autoencoder asks for more than latents, and where its
    checkpoint has gone or is another by now.
    """
    manifest = Path(parse(data).path or ".") / MANIFEST
    if not manifest.is_file():
        return None
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    checkpoint = facts["checkpoint"]
    there = split_name(checkpoint)[0].is_file() and checkpoint_sha256(checkpoint) == facts["checkpoint_sha256"]
    if not there or facts["options"]["condition_dim"]:
        return None
    workload = workloads.create(facts["workload"], facts["size"], facts["options"])
    module: Any = trained(workload, checkpoint)
    mean, deviation = (torch.tensor(facts[name]).reshape(-1, 1, 1) for name in ("channel_mean", "channel_std"))

    def decode(latents: Tensor) -> Tensor:
        module.to(latents.device)
        with torch.no_grad():
            stored = latents * deviation.to(latents) + mean.to(latents)
            return to_bytes(module.decode(stored))

    return decode
