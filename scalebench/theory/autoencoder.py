"""The convolutional autoencoder of latent diffusion, layer by layer (Rombach et al. 2021, arXiv:2112.10752, after Esser
et al. 2020, arXiv:2012.09841, table 7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scalebench.theory.layers import Layer, attention


@dataclass(frozen=True, kw_only=True)
class AutoencoderShape:
    """What decides on its layers; the fields are those of scalebench.workloads.vavae_config.VAVAEConfig."""

    image_size: int
    channels: int
    latent_channels: int
    width: int
    level_widths: tuple[int, ...]
    num_res_blocks: int
    level_attention: bool
    condition_dim: int

    @property
    def layers(self) -> list[Layer]:
        """All layers: encoder, the two 1x1 convolutions around the latents, decoder."""
        return [*self._encoder(), *self._around_latents(), *self._decoder()]

    @property
    def latent_size(self) -> int:
        """Pixels along a side of the latents: halved between levels."""
        return self.image_size >> (len(self.level_widths) - 1)

    def _encoder(self) -> Iterator[Layer]:
        yield _convolution(self.channels, self.width, 3, self.image_size, reads_data=True)
        width, last = self.width, len(self.level_widths) - 1
        for level, wanted in enumerate(self.level_widths):
            side = self.image_size >> level
            for _ in range(self.num_res_blocks):
                yield from self._level_block(width, wanted, side, lowest=level == last)
                width = wanted
            if level < last:
                yield _convolution(width, width, 3, side // 2)
        yield from self._middle(width)
        yield _normed(width, 2 * self.latent_channels, self.latent_size)

    def _around_latents(self) -> Iterator[Layer]:
        yield _convolution(2 * self.latent_channels, 2 * self.latent_channels, 1, self.latent_size)
        yield _convolution(self.latent_channels, self.latent_channels, 1, self.latent_size)

    def _decoder(self) -> Iterator[Layer]:
        width = self.level_widths[-1]
        yield _convolution(self.latent_channels, width, 3, self.latent_size)
        yield from self._middle(width)
        last = len(self.level_widths) - 1
        for level, wanted in reversed(list(enumerate(self.level_widths))):
            side = self.image_size >> level
            for _ in range(self.num_res_blocks + 1):
                yield from self._level_block(width, wanted, side, lowest=level == last)
                width = wanted
            if level:
                yield _convolution(width, width, 3, 2 * side)
        yield _normed(width, self.channels, self.image_size)

    def _level_block(self, inside: int, outside: int, side: int, *, lowest: bool) -> Iterator[Layer]:
        yield from self._residual(inside, outside, side)
        if lowest and self.level_attention:
            yield from _attention_block(outside, side)

    def _middle(self, width: int) -> Iterator[Layer]:
        yield from self._residual(width, width, self.latent_size)
        yield from _attention_block(width, self.latent_size)
        yield from self._residual(width, width, self.latent_size)

    def _residual(self, inside: int, outside: int, side: int) -> Iterator[Layer]:
        """Two norms with 3x3 convolutions, a 1x1 shortcut where the width changes, a projection of the condition.

        Recomputing stops before the second convolution: nothing is kept of its result.
        """
        if inside != outside:
            yield _convolution(inside, outside, 1, side, recomputed=True)
        yield _normed(inside, outside, side, recomputed=True)
        if self.condition_dim:
            yield Layer(weights=self.condition_dim * outside, vectors=outside, reads_data=True, recomputed=True)
        yield _normed(outside, outside, side)


def _attention_block(width: int, side: int) -> Iterator[Layer]:
    """Norm, query, key and value, attention in one head, output; recomputing stops before the output."""
    yield Layer(weights=3 * width**2, vectors=(3 + 2) * width, positions=side**2, recomputed=True)
    yield attention(width, side**2)
    yield _convolution(width, width, 1, side)


def _normed(inputs: int, outputs: int, side: int, *, recomputed: bool = False) -> Layer:
    """A norm and the 3x3 convolution after it."""
    weights, bias = inputs * outputs * 9, outputs
    return Layer(weights=weights, vectors=bias + 2 * inputs, positions=side**2, recomputed=recomputed)


def _convolution(
    inputs: int, outputs: int, kernel: int, side: int, *, reads_data: bool = False, recomputed: bool = False
) -> Layer:
    """A convolution with bias whose output has `side` x `side` pixels."""
    return Layer(
        weights=inputs * outputs * kernel**2,
        vectors=outputs,
        positions=side**2,
        reads_data=reads_data,
        recomputed=recomputed,
    )
