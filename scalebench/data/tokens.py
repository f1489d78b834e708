"""Token samples by global index: windows of a text's bytes, or tokens made up from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scalebench.data.corpus import HEADER_BYTES, cached_corpus, corpus_files, read_sha256
from scalebench.data.names import DATA_HELP, SYNTHETIC
from scalebench.data.samples import wrong_kind
from scalebench.errors import UserError

BYTE_VALUES = 256
SYNTHETIC_SAMPLES = 4096


@dataclass(frozen=True, kw_only=True)
class TokenSamples:
    """Samples of L tokens and their successors. `rows` is (samples, L + 1), of any integer dtype."""

    name: str
    sha256: str | None
    rows: Tensor

    def __len__(self) -> int:
        return self.rows.size(0)

    def __getitems__(self, draws: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """`tokens` and `targets` of the samples of `draws`: contiguous int64, each (len(draws), L)."""
        rows = self.rows.index_select(0, torch.as_tensor(draws) % len(self))
        return {"tokens": rows[:, :-1].long(), "targets": rows[:, 1:].long()}


def open_tokens(data: str, *, seed: int, context_length: int, vocab_size: int) -> TokenSamples:
    """The samples of `data`, as a spec names it. Raises UserError when it cannot be read or is too short."""
    if data == SYNTHETIC:
        return synthetic_samples(seed=seed, context_length=context_length, vocab_size=vocab_size)
    if not data.startswith("text:"):
        raise wrong_kind(data, DATA_HELP)
    if vocab_size < BYTE_VALUES:
        raise UserError(
            f"workload.vocab_size {vocab_size} is too small for text, whose tokens are its {BYTE_VALUES} byte values; "
            f"set it to {BYTE_VALUES} or more, or use --data synthetic."
        )
    return text_samples(data, context_length=context_length)


def text_samples(data: str, *, context_length: int, cache: Path | None = None) -> TokenSamples:
    """The bytes of a text as tokens: sample i is bytes i·L to i·L + L, both included, so that each is predicted once.

    `data` is `text:stdlib` or `text:PATH`. What does not fill the last sample is left out. The bytes are mapped from a
    file in `cache`, shared by all processes. Raises UserError when they cannot be read or fill no sample.
    """
    path = cached_corpus(corpus_files(data), cache)
    size = path.stat().st_size
    count = (size - HEADER_BYTES - 1) // context_length
    if count < 1:
        raise UserError(
            f"{data.removeprefix('text:')} holds {size - HEADER_BYTES} bytes, fewer than one sample of "
            f"{context_length} tokens and its successor. "
            "Give longer text with --data, or a smaller workload.context_length."
        )
    tokens = torch.from_file(str(path), size=size, dtype=torch.uint8)
    rows = tokens.as_strided((count, context_length + 1), (context_length, 1), HEADER_BYTES)
    return TokenSamples(name=data, sha256=read_sha256(path), rows=rows)


def synthetic_samples(
    *, seed: int, context_length: int, vocab_size: int, count: int = SYNTHETIC_SAMPLES
) -> TokenSamples:
    """`count` samples of tokens spread evenly over the vocabulary, all made now so that no step pays for them.

    What sample i holds follows from the seed, the context length and the vocabulary.
    """
    generator, shape = torch.Generator().manual_seed(seed), (count, context_length + 1)
    try:
        rows = torch.randint(vocab_size, shape, generator=generator, dtype=torch.int32)
    except RuntimeError as error:  # of the allocator
        raise UserError(
            f"{count} synthetic samples of {context_length} tokens do not fit into memory. "
            "Set a smaller workload.context_length."
        ) from error
    return TokenSamples(name=f"{SYNTHETIC} (seed {seed})", sha256=None, rows=rows)
