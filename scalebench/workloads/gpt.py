"""The `gpt` workload: a decoder of the GPT-2/3 family with its loss, written for speed.

Pre-norm blocks, learned positions, GELU, biases everywhere but in the output layer, which is the token embedding
(Radford et al. 2019; Brown et al. 2020, arXiv:2005.14165). GELU is the exact one: OpenAI's tanh approximation takes
about twice as long on CPUs. No block holds what tells it from the others, so one compiled graph serves all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scalebench.theory.activations import Saved, gpt_saved
from scalebench.theory.flops import gpt_flops_per_sample, gpt_recomputed_flops_per_sample
from scalebench.workloads.decoding import CausalModel, CausalWorkload, Head
from scalebench.workloads.gpt_config import DEFAULT_MICRO_BATCH, GPTConfig

INIT_STD = 0.02


class Embedding(nn.Module):
    """Token plus position embedding: (batch, time) int64 to (batch, time, hidden)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Parameter(torch.empty(config.context_length, config.hidden_size))
        self.dropout = config.dropout

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.tokens(tokens) + self.positions[: tokens.size(1)]
        return F.dropout(hidden, self.dropout, self.training)


class Block(nn.Module):
    """One pre-norm transformer block: (batch, time, hidden) to the same."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_input = nn.Linear(width, 4 * width)
        self.mlp_output = nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self._residual(self.attention_output(self._attend(self.attention_norm(hidden))))
        expanded = F.gelu(self.mlp_input(self.mlp_norm(hidden)))
        return hidden + self._residual(self.mlp_output(expanded))

    def _attend(self, normed: Tensor) -> Tensor:
        """Causal attention of all heads, (batch, time, hidden) to the same, before the output projection."""
        heads = self.qkv(normed).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = (part.transpose(1, 2) for part in heads.unbind(2))
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return attended.transpose(1, 2).flatten(2)

    def _residual(self, branch: Tensor) -> Tensor:
        return F.dropout(branch, self.dropout, self.training)


class GPT(CausalModel):
    """The model and its loss."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config.context_length)
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(nn.LayerNorm(config.hidden_size), self.embedding.tokens.weight)

    def hidden(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class GPTWorkload(CausalWorkload[GPTConfig]):
    """A GPT at one size with its options: a scalebench.workloads.base.Workload."""

    name = "gpt"
    default_micro_batches = DEFAULT_MICRO_BATCH

    def build(self) -> GPT:
        """The module, with values left to `init_parameter_`."""
        return GPT(self.config)

    def init_parameter_(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """GPT-2's start: N(0, 0.02²), projections into the residual stream over √(2 L), biases 0, norm gains 1."""
        if name.endswith("bias"):
            tensor.zero_()
        elif name.endswith("norm.weight"):
            tensor.fill_(1.0)
        else:
            residual = name.endswith("_output.weight")
            scale = math.sqrt(2 * self.config.num_layers) if residual else 1.0
            tensor.normal_(0.0, INIT_STD / scale, generator=generator)

    def flops_per_sample(self, *, causal: bool = False) -> float:
        """Model FLOPs of forward plus backward; attention counted as full unless `causal` (scalebench.theory.flops)."""
        return gpt_flops_per_sample(**self._shape(), vocab_size=self.config.vocab_size, causal=causal)

    def recomputed_flops_per_sample(self) -> float:
        """FLOPs of running each block's forward pass again, but for its last product, which no backward pass needs."""
        return gpt_recomputed_flops_per_sample(**self._shape())

    def saved_activations(self) -> Saved:
        """What the forward pass of one sample keeps (scalebench.theory.activations)."""
        config = self.config
        return gpt_saved(
            **self._shape(),
            num_heads=config.num_heads,
            vocab_size=config.vocab_size,
            dropout=config.dropout > 0,
        )

    def _shape(self) -> dict[str, int]:
        names = ("num_layers", "hidden_size", "context_length")
        return {name: getattr(self.config, name) for name in names}
