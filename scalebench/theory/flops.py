"""How many floating-point operations a transformer needs: formulas only, a multiply-add counted as two.

Model FLOPs as in PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): what the mathematics needs, recomputation
not counted. The backward pass needs twice the forward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), which gives
their 6 N per token, to which PaLM adds attention's 12 L d T.
"""

from __future__ import annotations


def gpt_matmul_parameters(*, num_layers: int, hidden_size: int, vocab_size: int) -> int:
    """Weights that take part in matrix products: 12 d² per block (attention 4, MLP 8) and the output layer.

    The token and position embeddings are looked up, not multiplied; a tied embedding counts as the output layer.
    """
    return 12 * num_layers * hidden_size**2 + vocab_size * hidden_size


def attention_flops_per_token(*, num_layers: int, hidden_size: int, context_length: int, causal: bool = False) -> float:
    """Forward FLOPs per token of the scores Q·Kᵀ and the weighted sum of values: 2 d per key each, in every block.

    Full attention looks at T keys. Causal attention looks at (T + 1) / 2 on average, which is what it needs at least.
    """
    keys = (context_length + 1) / 2 if causal else context_length
    return 4 * num_layers * hidden_size * keys


def gpt_flops_per_sample(
    *, num_layers: int, hidden_size: int, vocab_size: int, context_length: int, causal: bool = False
) -> float:
    """FLOPs of forward plus backward for one sample of `context_length` tokens.

    With full attention this is PaLM's T (6 N + 12 L d T), N without the embeddings that are only looked up. Norms,
    activations, softmax, biases and the loss are left out, as there (below 1% from a width of 768 on).
    """
    weights = gpt_matmul_parameters(num_layers=num_layers, hidden_size=hidden_size, vocab_size=vocab_size)
    attention = attention_flops_per_token(
        num_layers=num_layers, hidden_size=hidden_size, context_length=context_length, causal=causal
    )
    return 3 * context_length * (2 * weights + attention)


def gpt_recomputed_flops_per_sample(*, num_layers: int, hidden_size: int, context_length: int) -> float:
    """FLOPs that checkpointing every block adds to one sample: its forward pass again (Chen et al. 2016,
    arXiv:1604.06174), up to the input of its last product (4 d² weights of the MLP), where torch stops."""
    weights = num_layers * (12 - 4) * hidden_size**2
    attention = attention_flops_per_token(num_layers=num_layers, hidden_size=hidden_size, context_length=context_length)
    return context_length * (2 * weights + attention)
