"""The options and sizes of the `llama` workload. Torch-free, so that the command can list and check them quickly."""

from __future__ import annotations

from dataclasses import dataclass

from scalebench.errors import UserError
from scalebench.workloads.config import CausalConfig


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(CausalConfig):
    """The shape of a Llama model; the fields are the options of `--set workload.NAME=VALUE`.

    Attributes:
        num_layers: transformer blocks.
        hidden_size: width of the residual stream.
        intermediate_size: width of the gated MLP.
        num_heads: query heads, each of hidden_size / num_heads.
        num_kv_heads: key and value heads, each shared by num_heads / num_kv_heads query heads.
        context_length: tokens per sample.
        vocab_size: rows of the embedding and of the output layer.
        rope_theta: base of the rotary angles.
        tie_embeddings: whether the output layer is the embedding.

    Raises UserError for a shape that cannot be built.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    context_length: int = 2048
    vocab_size: int = 128256
    rope_theta: float = 500000.0
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        self.require_whole("num_layers", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads")
        self.require_whole("context_length", "vocab_size")
        if self.hidden_size % (2 * self.num_heads):
            raise UserError(
                f"workload.hidden_size {self.hidden_size} does not divide into {self.num_heads} heads of an even width "
                "(their halves are rotated against each other); choose another workload.num_heads."
            )
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"workload.num_heads {self.num_heads} do not share {self.num_kv_heads} key and value heads evenly; "
                "choose workload.num_kv_heads so that num_heads / num_kv_heads is whole."
            )
        if self.rope_theta <= 0:
            raise UserError(f"workload.rope_theta is {self.rope_theta}; give a number above 0.")

    @property
    def kv_size(self) -> int:
        """Width of keys, and of values."""
        return self.hidden_size // self.num_heads * self.num_kv_heads

    @property
    def block_weights(self) -> int:
        """Weights of one block's matrix products: query and output, key and value, the three of the gated MLP."""
        d = self.hidden_size
        return 2 * d * d + 2 * d * self.kv_size + 3 * d * self.intermediate_size

    @property
    def parameter_count(self) -> int:
        """Parameters, a tied embedding counted once: nothing has a bias, and each norm has a gain alone."""
        d = self.hidden_size
        tables = 1 if self.tie_embeddings else 2
        return self.num_layers * (self.block_weights + 2 * d) + d + tables * self.vocab_size * d


SIZES: dict[str, LlamaConfig] = {
    "tiny": LlamaConfig(
        num_layers=2,
        hidden_size=128,
        intermediate_size=352,
        num_heads=4,
        num_kv_heads=2,
        context_length=64,
        vocab_size=256,
    ),
    "1b": LlamaConfig(
        num_layers=16,
        hidden_size=2048,
        intermediate_size=8192,
        num_heads=32,
        num_kv_heads=8,
        tie_embeddings=True,
    ),
    "3b": LlamaConfig(
        num_layers=28,
        hidden_size=3072,
        intermediate_size=8192,
        num_heads=24,
        num_kv_heads=8,
        tie_embeddings=True,
    ),
    "7b": LlamaConfig(
        num_layers=32,
        hidden_size=4096,
        intermediate_size=11008,
        num_heads=32,
        num_kv_heads=32,
        vocab_size=32000,
        rope_theta=10000.0,
    ),
    "8b": LlamaConfig(
        num_layers=32,
        hidden_size=4096,
        intermediate_size=14336,
        num_heads=32,
        num_kv_heads=8,
    ),
    "13b": LlamaConfig(
        num_layers=40,
        hidden_size=5120,
        intermediate_size=13824,
        num_heads=40,
        num_kv_heads=40,
        vocab_size=32000,
        rope_theta=10000.0,
    ),
    "70b": LlamaConfig(
        num_layers=80,
        hidden_size=8192,
        intermediate_size=28672,
        num_heads=64,
        num_kv_heads=8,
    ),
}
"""7b and 13b are Llama 2 (Touvron et al. 2023, arXiv:2307.09288), as LLaMA's 6.7B and 13.0B (arXiv:2302.13971, table
2); 8b and 70b are Llama 3 (Grattafiori et al. 2024, arXiv:2407.21783, table 3); 1b and 3b are Llama 3.2's model cards'.
Samples are of 2,048 tokens in all, which these models were not limited to; rotary angles are not scaled for longer."""

DEFAULT_MICRO_BATCH: dict[str, int] = {"tiny": 4, "1b": 4, "3b": 2, "7b": 1, "8b": 1, "13b": 1, "70b": 1}
"""Samples per rank and forward pass unless asked otherwise: 8 Ki tokens, fewer where memory gets short."""
