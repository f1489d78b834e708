"""The options and sizes of the `gpt` workload. Torch-free, so that the command can list and check them quickly."""

from __future__ import annotations

from dataclasses import dataclass

from scalebench.errors import UserError
from scalebench.workloads.config import CausalConfig


@dataclass(frozen=True, kw_only=True)
class GPTConfig(CausalConfig):
    """The shape of a GPT-2/3 model; the fields are the options of `--set workload.NAME=VALUE`.

    Attributes:
        num_layers: transformer blocks.
        hidden_size: width of the residual stream; the MLP is four times as wide.
        num_heads: attention heads, each of hidden_size / num_heads.
        context_length: tokens per sample, and learned positions.
        vocab_size: rows of the embedding, which is also the output layer.
        dropout: probability, on the embedding, the attention weights and both residual branches.

    Raises UserError for a shape that cannot be built.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    context_length: int = 2048
    vocab_size: int = 50304
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self.require_whole("num_layers", "hidden_size", "num_heads", "context_length", "vocab_size")
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"workload.hidden_size {self.hidden_size} does not divide into {self.num_heads} heads; "
                "choose workload.num_heads so that hidden_size / num_heads is whole."
            )
        self.require_probability("dropout")

    @property
    def parameter_count(self) -> int:
        """Parameters, the tied embedding counted once.

        A block has 12 d² weights, 9 d biases (3 d, d, 4 d, d) and two norms of 2 d; outside are V + T rows and a norm.
        """
        d = self.hidden_size
        block = 12 * d * d + 13 * d
        return self.num_layers * block + (self.vocab_size + self.context_length) * d + 2 * d


SIZES: dict[str, GPTConfig] = {
    "tiny": GPTConfig(num_layers=2, hidden_size=128, num_heads=2, context_length=64, vocab_size=256),
    "124m": GPTConfig(num_layers=12, hidden_size=768, num_heads=12, context_length=1024),
    "350m": GPTConfig(num_layers=24, hidden_size=1024, num_heads=16, context_length=1024),
    "760m": GPTConfig(num_layers=24, hidden_size=1536, num_heads=16),
    "1.3b": GPTConfig(num_layers=24, hidden_size=2048, num_heads=16),
    "2.7b": GPTConfig(num_layers=32, hidden_size=2560, num_heads=20),
    "7b": GPTConfig(num_layers=32, hidden_size=4096, num_heads=32),
    "13b": GPTConfig(num_layers=40, hidden_size=5120, num_heads=40),
}
"""Layers and widths of Brown et al. 2020 (arXiv:2005.14165), table 2.1, all attention dense.

Where we stray from that table: the two smallest published sizes keep GPT-2's context of 1024. The table's heads of 1.3B
(24 of 128) and width of 13B (5140) do not divide; 1.3b and 2.7b take GPT-Neo's heads of 128, which attention kernels
are built for, 13b 40 heads of 128 and width 5120. The vocabulary is GPT-2's 50,257, padded to 50,304 = 393 · 128.
"""

DEFAULT_MICRO_BATCH: dict[str, int] = {
    "tiny": 4,
    "124m": 8,
    "350m": 8,
    "760m": 4,
    "1.3b": 4,
    "2.7b": 2,
    "7b": 1,
    "13b": 1,
}
"""Samples per rank and forward pass unless asked otherwise: 8 Ki tokens, fewer where memory gets short; for `tiny`,
so few that a whole step takes about 10 ms on one core."""
