"""What causal language models share beside their layers: the loss, continuing a text, and the frame of a workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scalebench.data.base import SampleSource
from scalebench.data.tokens import open_tokens
from scalebench.strategies.base import Batch, Task
from scalebench.workloads.config import CausalConfig
from scalebench.workloads.frame import Transformer

DRAWS = 2**24
K = TypeVar("K", bound=CausalConfig)


class Head(nn.Module):
    """Final norm, output layer and loss in one region: (batch, time, hidden) and int64 targets to a scalar.

    Together, so that a compiler fuses the loss's conversion to fp32 and its reductions instead of storing fp32 logits.
    Without targets, the logits: (batch, time, vocabulary).
    """

    def __init__(self, norm: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.norm = norm
        self.weight = weight

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = F.linear(self.norm(hidden), self.weight)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class CausalModel(nn.Module):
    """A language model and its loss. `forward` takes a batch of int64 `tokens` and `targets`, each (batch, time)."""

    head: nn.Module

    def __init__(self, context_length: int) -> None:
        super().__init__()
        self.context_length = context_length

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the head is given: (batch, time, hidden)."""
        raise NotImplementedError

    def forward(self, batch: Batch, task: Task = "loss") -> Tensor | dict[str, Tensor]:
        """`loss`: mean cross-entropy over all tokens, an fp32 scalar in nats; `metrics`: its sum and how many tokens
        there are; `generate`: the continued `tokens` (see `continued`)."""
        if task == "generate":
            return continued(self._logits_at, batch["tokens"], batch.get("draws"), self.context_length)
        targets = batch["targets"]
        loss: Tensor = self.head(self.hidden(batch["tokens"]), targets)
        if task == "loss":
            return loss
        return {"loss_sum": loss * targets.numel(), "tokens": loss.new_tensor(targets.numel())}

    def _logits_at(self, tokens: Tensor, place: int) -> Tensor:
        logits: Tensor = self.head(self.hidden(tokens)[:, place : place + 1])
        return logits[:, 0]


class CausalWorkload(Transformer[K]):
    """A language model on windows of text."""

    item = "token"

    def __init__(self, size: str, config: K) -> None:
        super().__init__(size, config)
        self.items_per_sample = config.context_length

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """`loss` in nats per token, and `perplexity`, its exponential."""
        loss = sums["loss_sum"].double() / sums["tokens"].double()
        return {"loss": loss.item(), "perplexity": loss.exp().item()}

    def samples(self, data: str, seed: int) -> SampleSource:
        """Windows of `context_length` tokens and their successors; `data` is a spec's (scalebench.data)."""
        config = self.config
        return open_tokens(data, seed=seed, context_length=config.context_length, vocab_size=config.vocab_size)


def continued(
    logits_at: Callable[[Tensor, int], Tensor], prompt: Tensor, draws: Tensor | None, context_length: int
) -> Tensor:
    """`prompt` (batch, time) filled up to the context's length: (batch, context).

    A prompt that already fills it is cut to its first half. Each token is the likeliest one, or, with `draws`
    (batch, context) in 0 to 2^24 - 1, one drawn from the model's distribution by the draw at its place. Every token
    takes a whole pass, of the same shape throughout, since what follows a place does not touch it.

    Args:
        logits_at: of tokens (batch, context) and a place, the logits (batch, vocabulary) of what follows there.
    """
    known = prompt.size(1) if prompt.size(1) < context_length else max(1, context_length // 2)
    tokens = F.pad(prompt[:, :known], (0, context_length - known))
    for place in range(known, context_length):
        logits = logits_at(tokens, place - 1)
        tokens[:, place] = logits.argmax(-1) if draws is None else _drawn(logits, draws[:, place])
    return tokens


def _drawn(logits: Tensor, draws: Tensor) -> Tensor:
    """Tokens (batch,) from the distributions of `logits` (batch, vocabulary), where their cumulated share passes
    `draws` / 2^24."""
    cumulated = logits.double().softmax(-1).cumsum(-1)
    found = torch.searchsorted(cumulated, draws.double().unsqueeze(-1) / DRAWS, right=True).squeeze(-1)
    return found.clamp(max=logits.size(-1) - 1)
