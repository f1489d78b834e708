"""nanoGPT's model is loaded from its file and trained as its script does; here a stand-in of it."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.gpu import peer

STAND_IN = """
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int

class GPT(nn.Module):
    made = []

    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)
        self.steps = 0
        GPT.made.append(self)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        self.asked = (weight_decay, learning_rate, betas, device_type)
        optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate)
        optimizer.register_step_post_hook(lambda *_: setattr(self, "steps", self.steps + 1))
        return optimizer

    def forward(self, tokens, targets):
        logits = self.table(tokens)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""


def test_it_is_trained_for_as_many_steps_as_are_timed_and_before(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(STAND_IN)
    nanogpt = peer.load(tmp_path / "model.py")
    shape = {"block_size": 8, "vocab_size": 16}
    rate = peer.tokens_per_second(nanogpt, 2, torch.device("cpu"), shape, compiled=False)
    (model,) = nanogpt.GPT.made
    assert model.steps == peer.WARM_UP + peer.STEPS
    assert model.asked == (0.1, 3e-4, (0.9, 0.95), "cpu")
    assert rate > 0
