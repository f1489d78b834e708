"""A plain PyTorch module, its loss and its data: nothing here knows of scalebench."""

import torch
from torch import nn
from torch.utils.data import Dataset


class Waves(Dataset):
    """Noisy sine waves, to be told apart by their frequency."""

    def __init__(self, samples=256, length=32, classes=4):
        self.samples, self.length, self.classes = samples, length, classes

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        label = index % self.classes
        time = torch.arange(self.length) / self.length
        wave = torch.sin(2 * torch.pi * (label + 1) * time + index)
        return wave + 0.1 * torch.randn(self.length), label


class Residual(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return x + self.dropout(self.outer(torch.relu(self.inner(self.norm(x)))))


class Classifier(nn.Module):
    def __init__(self, length=32, width=64, depth=3, classes=4, dropout=0.1):
        super().__init__()
        self.embed = nn.Linear(length, width)
        self.layers = nn.Sequential(*[Residual(width, dropout) for _ in range(depth)])
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.layers(self.embed(x)))


def make(width: int = 64, depth: int = 3, dropout: float = 0.1):
    return Classifier(width=width, depth=depth, dropout=dropout), nn.CrossEntropyLoss(), Waves()
