"""What causal language models share beside their layers: continuing a text, and the metrics of their loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

DRAWS = 2**24


def token_sums(loss: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The sums behind `perplexity_of`, of a batch of mean `loss` over `targets`."""
    return {"loss_sum": loss * targets.numel(), "tokens": loss.new_tensor(targets.numel())}


def perplexity_of(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """`loss` in nats per token, and `perplexity`, its exponential."""
    loss = sums["loss_sum"].double() / sums["tokens"].double()
    return {"loss": loss.item(), "perplexity": loss.exp().item()}


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
