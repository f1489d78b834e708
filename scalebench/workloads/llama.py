"""The `llama` workload: a decoder of the Llama family with its loss, written for speed.

Pre-norm blocks with RMSNorm (Zhang and Sennrich, arXiv:1910.07467), rotary positions (Su et al., arXiv:2104.09864),
grouped queries (Ainslie et al., arXiv:2305.13245) and a SwiGLU MLP (Shazeer, arXiv:2002.05202), as in Touvron et al.
(arXiv:2302.13971); no biases. It computes what transformers' LlamaForCausalLM computes (a test compares them), but has
no buffers: engines that cast a whole module to 16 bit would cast rotary frequencies with it, and train another model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scalebench.theory.flops import attention_flops_per_token
from scalebench.workloads.decoding import CausalModel, CausalWorkload, Head
from scalebench.workloads.llama_config import DEFAULT_MICRO_BATCH, LlamaConfig

INIT_STD = 0.02
"""transformers' initializer_range for this family, for which no paper gives one."""
NORM_EPS = 1e-5


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · gain over the last dimension, computed in fp32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, hidden: Tensor) -> Tensor:
        normed = F.rms_norm(hidden.float(), hidden.shape[-1:], eps=NORM_EPS)
        return normed.to(hidden.dtype) * self.weight


class Rotation(nn.Module):
    """Cosine and sine, (time, head / 2) fp32 each, of the angle t · theta^(-2 i / head) by which position t turns pair
    i."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.theta = config.rope_theta
        self.head = config.hidden_size // config.num_heads

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        pairs = torch.arange(0, self.head, 2, device=tokens.device, dtype=torch.float32)
        positions = torch.arange(tokens.size(1), device=tokens.device, dtype=torch.float32)
        angles = torch.outer(positions, self.theta ** (-pairs / self.head))
        return angles.cos(), angles.sin()


def rotated(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """(batch, heads, time, head) with dimension i turned against dimension i + head / 2."""
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    return turned.type_as(heads)


class Block(nn.Module):
    """One pre-norm transformer block: (batch, time, hidden) to the same, given the rotation's cosine and sine."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.head = width // config.num_heads
        self.split = [width, config.kv_size, config.kv_size]
        self.shared_by = config.num_heads // config.num_kv_heads
        self.attention_norm = RMSNorm(width)
        self.qkv = nn.Linear(width, sum(self.split), bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.mlp_norm = RMSNorm(width)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        hidden = hidden + self.attention_output(self._attend(self.attention_norm(hidden), cosine, sine))
        gate, up = self.gate_up(self.mlp_norm(hidden)).chunk(2, dim=-1)
        output: Tensor = self.down(F.silu(gate) * up)
        return hidden + output

    def _attend(self, normed: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Causal attention of all heads, (batch, time, hidden) to the same, before the output projection."""
        parts = self.qkv(normed).split(self.split, dim=-1)
        query, key, value = (part.unflatten(-1, (-1, self.head)).transpose(1, 2) for part in parts)
        query, key = rotated(query, cosine, sine), rotated(key, cosine, sine)
        if self.shared_by > 1:
            key, value = (part.repeat_interleave(self.shared_by, dim=1) for part in (key, value))
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return attended.transpose(1, 2).flatten(2)


class Llama(CausalModel):
    """The model and its loss."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config.context_length)
        vocabulary, width = config.vocab_size, config.hidden_size
        self.embedding = nn.Embedding(vocabulary, width)
        self.rotation = Rotation(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        tied = config.tie_embeddings
        self.head = Head(
            RMSNorm(width), self.embedding.weight if tied else nn.Parameter(torch.empty(vocabulary, width))
        )

    def hidden(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.embedding(tokens)
        cosine, sine = self.rotation(tokens)
        for block in self.blocks:
            hidden = block(hidden, cosine, sine)
        return hidden


class LlamaWorkload(CausalWorkload[LlamaConfig]):
    """A Llama at one size with its options: a scalebench.workloads.base.Workload."""

    name = "llama"
    default_micro_batches = DEFAULT_MICRO_BATCH

    def build(self) -> Llama:
        """The module, with values left to `init_parameter_`."""
        return Llama(self.config)

    def init_parameter_(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """N(0, 0.02²), norm gains 1."""
        if name.endswith("norm.weight"):
            tensor.fill_(1.0)
        else:
            tensor.normal_(0.0, INIT_STD, generator=generator)

    def compiled_names(self, module: nn.Module) -> list[str]:
        """Embedding, rotation, blocks, and norm + output layer + loss: together they are the whole forward pass."""
        return ["embedding", "rotation", *self.block_names(module), "head"]

    def flops_per_sample(self, *, causal: bool = False) -> float:
        """FLOPs of forward plus backward: PaLM's T (6 N + 12 L d T), N without the embedding that is only looked up.

        Grouped queries save weights and bytes, not products: every query head meets every key. Full attention unless
        `causal` (scalebench.theory.flops).
        """
        config = self.config
        weights = config.num_layers * config.block_weights + config.vocab_size * config.hidden_size
        return 3 * config.context_length * (2 * weights + self._attention(causal=causal))

    def recomputed_flops_per_sample(self) -> float:
        """FLOPs of running each block's forward pass again, but for its last product, which no backward pass needs."""
        config = self.config
        weights = config.num_layers * (config.block_weights - config.hidden_size * config.intermediate_size)
        return config.context_length * (2 * weights + self._attention())

    def _attention(self, *, causal: bool = False) -> float:
        shape = {name: getattr(self.config, name) for name in ("num_layers", "hidden_size", "context_length")}
        return attention_flops_per_token(**shape, causal=causal)
