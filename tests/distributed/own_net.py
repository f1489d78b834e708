"""A project of a user's own, in as many versions as a test needs: a model, with what its file imports."""

from __future__ import annotations

from pathlib import Path

NET = """
import torch
from torch import nn
from width import WIDTH

def make():
    samples = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.randint(0, 2, (16,)))
    return nn.Sequential(nn.Linear(4, WIDTH), nn.Linear(WIDTH, 2)), nn.CrossEntropyLoss(), samples
"""


def write_net(folder: Path, width: int) -> None:
    """`net.py:make` in a new folder, whose width stands in a second file."""
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    (folder / "width.py").write_text(f"WIDTH = {width}\n")


def parameters(width: int) -> int:
    """How many it has: two layers with their biases."""
    return (4 + 1) * width + (width + 1) * 2
