"""FLOPs and kept activations of the diffusion transformers, a multiply-add counted as two FLOPs.

The conventions are those of scalebench.theory.flops and scalebench.theory.activations. The backward pass needs twice
the forward, but for the first products, whose inputs (images, features of times) take no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable

from scalebench.theory.activations import Kept, Saved


def block_products(*, hidden_size: int, num_tokens: int, mlp_weights: int) -> int:
    """Multiply-adds of one adaLN block and sample: modulation 6 d² once, attention 4 d² and the MLP per token, and
    scores and weighted sums of every token over every other."""
    d, tokens = hidden_size, num_tokens
    return 6 * d * d + tokens * (4 * d * d + mlp_weights) + 2 * tokens * tokens * d


def time_products(hidden_size: int, time_features: int) -> tuple[int, int]:
    """Multiply-adds of a time's embedding: those of its first product, which needs no gradient of its input, and d²."""
    return time_features * hidden_size, hidden_size * hidden_size


def trained(first: int, others: int) -> float:
    """FLOPs of forward and backward, given the multiply-adds of the first products and of all others."""
    return 4.0 * first + 6.0 * others


def dit_flops_per_sample(
    *,
    num_layers: int,
    hidden_size: int,
    num_tokens: int,
    num_patches: int,
    patch_values: int,
    output_values: int,
    time_features: int,
) -> float:
    """FLOPs of forward plus backward for one image of a DiT.

    Peebles & Xie's Gflops are multiply-adds of the forward pass: XL/2's 118.6 are close to a sixth of this.
    """
    time_first, time_other = time_products(hidden_size, time_features)
    blocks = num_layers * _dit_block(hidden_size, num_tokens)
    head = 2 * hidden_size**2 + num_patches * hidden_size * output_values
    return trained(num_patches * patch_values * hidden_size + time_first, time_other + blocks + head)


def dit_recomputed_flops_per_sample(*, num_layers: int, hidden_size: int, num_tokens: int) -> float:
    """FLOPs of the forward pass of every block."""
    return 2.0 * num_layers * _dit_block(hidden_size, num_tokens)


def _dit_block(hidden_size: int, num_tokens: int) -> int:
    return block_products(hidden_size=hidden_size, num_tokens=num_tokens, mlp_weights=8 * hidden_size**2)


def dit_saved(*, num_layers: int, hidden_size: int, num_tokens: int, num_heads: int, num_patches: int) -> Saved:
    """What a DiT keeps of one image, with flash attention.

    Of each block, times tokens · d: inputs and outputs of the two norms (residual: 4); inputs of the four products
    (1 + 1 + 1 + 4), query, key and value (3), GELU's input (4) and what the two gates multiply (2); the softmax's
    log-sum-exp per head and token. The condition and the modulation, one vector each per image, are left out. Outside:
    the last norm's input and output, and the input of the output layer.
    """
    stream, last = num_tokens * hidden_size, num_patches * hidden_size
    return Saved(
        blocks=num_layers,
        block_input=Kept(residual=stream),
        block=Kept(compute=16 * stream, residual=4 * stream, fp32=num_tokens * num_heads),
        rest=Kept(compute=last, residual=stream + last),
        turn=Kept(residual=stream),
    )


def jit_flops_per_sample(
    *,
    tokens_per_block: Iterable[int],
    hidden_size: int,
    mlp_hidden_size: int,
    bottleneck_size: int,
    num_patches: int,
    patch_values: int,
    time_features: int,
) -> float:
    """FLOPs of forward plus backward for one image of a JiT, whose later blocks see the class tokens too."""
    d = hidden_size
    time_first, time_other = time_products(d, time_features)
    blocks = _jit_blocks(tokens_per_block, d, mlp_hidden_size)
    head = 2 * d * d + num_patches * d * patch_values
    embedded = num_patches * bottleneck_size * d
    return trained(num_patches * patch_values * bottleneck_size + time_first, embedded + time_other + blocks + head)


def jit_recomputed_flops_per_sample(
    *, tokens_per_block: Iterable[int], hidden_size: int, mlp_hidden_size: int
) -> float:
    """FLOPs of the forward pass of every block."""
    return 2.0 * _jit_blocks(tokens_per_block, hidden_size, mlp_hidden_size)


def _jit_blocks(tokens_per_block: Iterable[int], hidden_size: int, mlp_hidden_size: int) -> int:
    """Multiply-adds of all blocks; the SwiGLU has three matrices."""
    mlp = 3 * hidden_size * mlp_hidden_size
    return sum(
        block_products(hidden_size=hidden_size, num_tokens=tokens, mlp_weights=mlp) for tokens in tokens_per_block
    )
