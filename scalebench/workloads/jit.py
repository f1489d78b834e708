"""The `jit` workload: a transformer that sees noisy pixels and predicts the clean image, Li & He 2025
(arXiv:2511.13720).

RMSNorm, rotary positions, normed queries and keys, SwiGLU, adaLN-Zero, and tokens of the class from a middle block on.
The loss is that of the velocity which the predicted image implies. Times, dropped labels and the keys of the noise are
in the batch, by draw. Where it strays from the paper's code: docs/workloads/jit.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scalebench.data.base import SampleSource
from scalebench.data.draws import Draws, normals
from scalebench.data.images import open_images
from scalebench.strategies.base import Batch, Task
from scalebench.theory.diffusion import jit_flops_per_sample, jit_recomputed_flops_per_sample
from scalebench.workloads import flow
from scalebench.workloads.diffusion import (
    DiffusionWorkload,
    Modulation,
    NoisySamples,
    TimeEmbedding,
    grid_sinusoids,
    guided,
    modulate,
    to_images,
    to_patches,
)
from scalebench.workloads.jit_config import DEFAULT_MICRO_BATCH, TIME_FEATURES, JiTConfig

INIT_STD = 0.02
NORM_EPS = 1e-6


class Embedding(nn.Module):
    """Noisy images, times and labels to tokens (n, patches, hidden), a condition (n, hidden) and the class's tokens."""

    def __init__(self, config: JiTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.patch_size = config.patch_size
        self.bottleneck = nn.Linear(config.patch_values, config.bottleneck_size, bias=False)
        self.patches = nn.Linear(config.bottleneck_size, width)
        self.time = TimeEmbedding(TIME_FEATURES, width)
        self.labels = nn.Embedding(config.num_classes + 1, width)
        tokens = config.num_class_tokens
        self.class_positions = nn.Parameter(torch.empty(tokens, width)) if tokens else None

    def forward(self, images: Tensor, times: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        stored = self.patches.weight
        patches = self.patches(self.bottleneck(to_patches(images, self.patch_size).to(stored.dtype)))
        positions = grid_sinusoids(math.isqrt(patches.size(1)), patches.size(2), patches.device)
        label = self.labels(labels)
        class_tokens = None if self.class_positions is None else label.unsqueeze(1) + self.class_positions
        return patches + positions.to(stored.dtype), self.time(times) + label, class_tokens


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm in the dtype of its input: torch fuses no other, and autocast leaves the gains in fp32."""

    def forward(self, values: Tensor) -> Tensor:
        return F.rms_norm(values, self.normalized_shape, self.weight.to(values.dtype), self.eps)


class Block(nn.Module):
    """One block: tokens (n, tokens, hidden), a condition (n, hidden) and rotations (2, tokens, head) to tokens."""

    def __init__(self, config: JiTConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.mlp_hidden_size
        self.num_heads = config.num_heads
        self.modulation = Modulation(width, 6)
        self.attention_norm = RMSNorm(width, eps=NORM_EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = RMSNorm(width // config.num_heads, eps=NORM_EPS)
        self.key_norm = RMSNorm(width // config.num_heads, eps=NORM_EPS)
        self.attention_output = nn.Linear(width, width)
        self.mlp_norm = RMSNorm(width, eps=NORM_EPS)
        self.mlp_input = nn.Linear(width, 2 * inner)
        self.mlp_output = nn.Linear(inner, width)

    def forward(self, tokens: Tensor, condition: Tensor, rotations: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition)
        attended = self._attend(modulate(self.attention_norm(tokens), shift, scale), rotations)
        tokens = tokens + gate * self.attention_output(attended)
        gates, values = self.mlp_input(modulate(self.mlp_norm(tokens), mlp_shift, mlp_scale)).chunk(2, dim=-1)
        return tokens + mlp_gate * self.mlp_output(F.silu(gates) * values)  # type: ignore[no-any-return]

    def _attend(self, tokens: Tensor, rotations: Tensor) -> Tensor:
        """Attention of all heads, every token to every other, before the output projection."""
        heads = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = (part.transpose(1, 2) for part in heads.unbind(2))
        query, key = rotated(self.query_norm(query), rotations), rotated(self.key_norm(key), rotations)
        attended: Tensor = F.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).flatten(2)


class Head(nn.Module):
    """Tokens of the image and a condition to the clean image: (n, channels, height, width)."""

    def __init__(self, config: JiTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.modulation = Modulation(config.hidden_size, 2)
        self.norm = RMSNorm(config.hidden_size, eps=NORM_EPS)
        self.output = nn.Linear(config.hidden_size, config.patch_values)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition)
        return to_images(self.output(modulate(self.norm(tokens), shift, scale)), self.patch_size)


class JiT(nn.Module):
    """The model and its loss; a batch is what NoisySamples gives of uint8 `images` (n, channels, side, side)."""

    def __init__(self, config: JiTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)

    def forward(self, batch: Batch, task: Task = "loss") -> Tensor | dict[str, Tensor]:
        """`loss`: the mean over the samples, an fp32 scalar; `metrics`: their sum and number; `generate`: images (from
        -1 to 1, if well trained) of the batch's labels out of its noise."""
        noise = self.config.noise_scale * normals(batch["noise_keys"], *batch["images"].shape[1:])
        if task == "generate":
            return self._generate(noise, batch["labels"])
        losses = self._losses(batch, noise)
        if task == "loss":
            return losses.mean()
        return {"loss_sum": losses.sum(), "samples": losses.new_tensor(len(losses))}

    def _losses(self, batch: Batch, noise: Tensor) -> Tensor:
        clean, times = batch["images"].float() / 127.5 - 1, flow.time_of(batch["times"])
        labels = batch["labels"].masked_fill(batch["unlabelled"], self.config.num_classes)
        return flow.losses(self._predict(flow.between(clean, noise, times), times, labels), clean, times)

    def _predict(self, noisy: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        tokens, condition, class_tokens = self.embedding(noisy, times, labels)
        rotations = self._rotations(tokens)
        for index, block in enumerate(self.blocks):
            if index == self.config.class_tokens_from and class_tokens is not None:
                tokens = torch.cat([class_tokens.to(tokens.dtype), tokens], dim=1)
            tokens = block(tokens, condition, rotations[:, -tokens.size(1) :])
        return self.head(tokens[:, -self.config.num_patches :], condition).float()  # type: ignore[no-any-return]

    def _rotations(self, tokens: Tensor) -> Tensor:
        """Of the class's tokens, which stand nowhere and are not turned, and the image's: fp32, (2, tokens, head)."""
        config, head = self.config, self.config.hidden_size // self.config.num_heads
        turned = grid_rotations(math.isqrt(config.num_patches), head, tokens.device)
        still = torch.stack([turned.new_ones(head), turned.new_zeros(head)]).unsqueeze(1)
        return torch.cat([still.expand(-1, config.num_class_tokens, -1), turned], dim=1)

    def _generate(self, noise: Tensor, labels: Tensor) -> Tensor:
        config = self.config

        def clean_of(noisy: Tensor, time: Tensor) -> Tensor:
            def predict(noisy: Tensor, labels: Tensor) -> Tensor:
                return self._predict(noisy, time.expand(len(labels)), labels)

            return guided(predict, noisy, labels, none=config.num_classes, scale=config.guidance_scale)

        return flow.sample(clean_of, noise, config.sampling_steps)


def grid_rotations(side: int, head: int, device: torch.device) -> Tensor:
    """Cosines and sines of the angles that the patches of a square turn a head's values by: fp32, (2, tokens, head).

    Rotary positions (Su et al. 2021, arXiv:2104.09864) in two dimensions: half of a head turns by the row, half by the
    column, neighbouring values together.
    """
    frequencies = 10_000 ** -(torch.arange(0, head // 2, 2, dtype=torch.float32, device=device) / (head // 2))
    angles = (torch.arange(side, device=device).unsqueeze(1) * frequencies).repeat_interleave(2, dim=1)
    rows, columns = angles.repeat_interleave(side, 0), angles.repeat(side, 1)
    turned = torch.cat([rows, columns], dim=-1)
    return torch.stack([turned.cos(), turned.sin()])


def rotated(values: Tensor, rotations: Tensor) -> Tensor:
    """`values` (n, heads, tokens, head) turned by `rotations` (2, tokens, head), pairs of neighbours as planes."""
    cosines, sines = rotations.to(values.dtype).unbind(0)
    pairs = torch.unflatten(values, -1, (-1, 2))
    quarter = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)
    return values * cosines + quarter * sines


@dataclass(frozen=True, kw_only=True)
class Times:
    """The times of draws: the logistic function of normal values, as scalebench.workloads.flow writes times."""

    seed: int
    mean: float
    std: float

    def __call__(self, draws: Sequence[int] | Tensor) -> Tensor:
        normal = Draws(seed=self.seed, purpose="times").normal(draws).double()
        return flow.written((self.mean + self.std * normal).sigmoid())


class JiTWorkload(DiffusionWorkload[JiTConfig]):
    """A JiT at one size with its options: a scalebench.workloads.base.Workload."""

    name = "jit"
    default_micro_batches = DEFAULT_MICRO_BATCH

    def build(self) -> JiT:
        """The module, with values left to `init_parameter_`."""
        return JiT(self.config)

    def init_parameter_(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """The paper's start: modulations and the output 0, so that a block begins as the identity; embeddings of
        labels, times and class positions N(0, 0.02²); other products uniform by Glorot's rule; biases 0, gains 1."""
        if name.endswith("norm.weight"):
            tensor.fill_(1.0)
        elif name.endswith("bias") or ".modulation." in name or name.startswith("head."):
            tensor.zero_()
        elif name.startswith(("embedding.time.", "embedding.labels.", "embedding.class_positions")):
            tensor.normal_(0.0, INIT_STD, generator=generator)
        else:
            nn.init.xavier_uniform_(tensor, generator=generator)

    def flops_per_sample(self, *, causal: bool = False) -> float:
        """Model FLOPs of forward plus backward; every token looks at every other, `causal` or not."""
        config = self.config
        return jit_flops_per_sample(
            **self._blocks(),
            bottleneck_size=config.bottleneck_size,
            num_patches=config.num_patches,
            patch_values=config.patch_values,
            time_features=TIME_FEATURES,
        )

    def recomputed_flops_per_sample(self) -> float:
        """FLOPs of running each block's forward pass again: the whole of it, since the last gate's gradient needs the
        last product."""
        return jit_recomputed_flops_per_sample(**self._blocks())

    def _blocks(self) -> dict[str, Any]:
        names = ("tokens_per_block", "hidden_size", "mlp_hidden_size")
        return {name: getattr(self.config, name) for name in names}

    def samples(self, data: str, seed: int) -> SampleSource:
        """Labelled images with noise, times and dropped labels by draw; `data` is a spec's (scalebench.data)."""
        config = self.config
        images = open_images(
            data,
            seed=seed,
            image_size=config.image_size,
            channels=config.channels,
            num_classes=config.num_classes,
        )
        return NoisySamples(
            source=images,
            label_dropout=config.label_dropout,
            times=Times(seed=seed, mean=config.time_mean, std=config.time_std),
            seed=seed,
        )
