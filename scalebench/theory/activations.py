"""What a transformer's forward pass keeps for its backward pass: elements per sample, by the dtype they are kept in.

Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1): 34 s b h bytes per layer in 16 bit besides attention's scores,
which flash attention (Dao et al. 2022, arXiv:2205.14135) keeps none of, and whose 2 s b h of dropout masks fall away
without dropout. That leaves 16 s b h elements: those of `block_saved`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Elements kept, by dtype: that of matrix products, that of the residual stream, fp32 always, and one byte each."""

    compute: int = 0
    residual: int = 0
    fp32: int = 0
    byte: int = 0

    def bytes(self, *, compute: int, residual: int) -> int:
        """Bytes, given those of an element in the dtype of matrix products and in that of the residual stream."""
        return self.compute * compute + self.residual * residual + 4 * self.fp32 + self.byte


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What one sample's forward pass keeps.

    Attributes:
        blocks: number of repeated blocks.
        block_input: what a checkpointed block keeps instead.
        block: what each block keeps, its input included.
        rest: what is kept outside of the blocks, the last block's output included.
        turn: gradients there at once when the backward pass begins.
    """

    blocks: int
    block_input: Kept
    block: Kept
    rest: Kept
    turn: Kept

    def bytes(self, *, compute: int, residual: int, checkpointing: bool) -> int:
        """Bytes at the end of a forward pass; with checkpointing those, or, if that is more, what there is in the
        backward pass when one block's are there again."""
        sizes = {"compute": compute, "residual": residual}
        block, rest = self.block.bytes(**sizes), self.rest.bytes(**sizes)
        if checkpointing:
            return self.blocks * self.block_input.bytes(**sizes) + max(block, rest)
        return self.blocks * block + rest


def gpt_saved(
    *, num_layers: int, hidden_size: int, num_heads: int, vocab_size: int, context_length: int, dropout: bool = False
) -> Saved:
    """What a GPT keeps of one sample of `context_length` tokens, with flash attention and the loss in fp32.

    Of each block: inputs of the two norms (residual), inputs of the four matrix products (1 + 1 + 1 + 4), query, key
    and value (3), and GELU's input (4), each times s h; the softmax's log-sum-exp per head and token. Outside: the
    final norm's input and output and the loss's log-probabilities, s V in fp32, whose gradient and that of the logits
    are so large too.
    """
    stream = context_length * hidden_size
    return Saved(
        blocks=num_layers,
        block_input=Kept(residual=stream),
        block=Kept(
            compute=14 * stream,
            residual=2 * stream,
            fp32=context_length * num_heads,
            byte=2 * stream if dropout else 0,
        ),
        rest=Kept(compute=stream, residual=stream, fp32=context_length * vocab_size),
        turn=Kept(fp32=2 * context_length * vocab_size),
    )
