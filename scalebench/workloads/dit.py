"""The `dit` workload: a transformer that denoises latent images, Peebles & Xie 2023 (arXiv:2212.09748).

adaLN-Zero blocks conditioned on timestep and class, fixed sine-cosine positions, noise and variance predicted (see
scalebench.workloads.ddpm), and, if asked, register tokens (Darcet et al. 2024, arXiv:2309.16588). Timesteps, dropped
labels and the keys of the noise are in the batch, by draw. Where it strays from the published code:
docs/workloads/dit.md.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scalebench.data.base import SampleSource
from scalebench.data.draws import Draws, normals
from scalebench.data.latents import open_latents
from scalebench.strategies.base import Batch, Task
from scalebench.theory.activations import Saved
from scalebench.theory.diffusion import dit_flops_per_sample, dit_recomputed_flops_per_sample, dit_saved
from scalebench.workloads import ddpm
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
from scalebench.workloads.dit_config import DEFAULT_MICRO_BATCH, TIME_FEATURES, TIMESTEPS, DiTConfig

INIT_STD = 0.02
NORM_EPS = 1e-6


class Embedding(nn.Module):
    """Noisy latents, timesteps and labels to tokens (n, registers + patches, hidden) and a condition (n, hidden)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.patches = nn.Linear(config.patch_values, config.hidden_size)
        self.time = TimeEmbedding(TIME_FEATURES, config.hidden_size)
        self.labels = nn.Embedding(config.num_classes + 1, config.hidden_size)
        registers = config.num_register_tokens
        self.registers = nn.Parameter(torch.empty(registers, config.hidden_size)) if registers else None

    def forward(self, latents: Tensor, timesteps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        stored = self.patches.weight
        patches = self.patches(to_patches(latents, self.patch_size).to(stored.dtype))
        positions = grid_sinusoids(math.isqrt(patches.size(1)), patches.size(2), patches.device)
        tokens = patches + positions.to(stored.dtype)
        if self.registers is not None:
            registers = self.registers.to(tokens.dtype).expand(len(tokens), -1, -1)
            tokens = torch.cat([registers, tokens], dim=1)
        return tokens, self.time(timesteps) + self.labels(labels)


class Block(nn.Module):
    """One adaLN-Zero block: tokens (n, tokens, hidden) and a condition (n, hidden) to tokens."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.modulation = Modulation(width, 6)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.mlp_input = nn.Linear(width, 4 * width)
        self.mlp_output = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition)
        attended = self._attend(modulate(normed(tokens), shift, scale))
        tokens = tokens + gate * self.attention_output(attended)
        expanded = F.gelu(self.mlp_input(modulate(normed(tokens), mlp_shift, mlp_scale)), approximate="tanh")
        return tokens + mlp_gate * self.mlp_output(expanded)  # type: ignore[no-any-return]

    def _attend(self, tokens: Tensor) -> Tensor:
        """Attention of all heads, every token to every other, before the output projection."""
        heads = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = (part.transpose(1, 2) for part in heads.unbind(2))
        attended: Tensor = F.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).flatten(2)


class Head(nn.Module):
    """Tokens and a condition to the predicted noise and variance: (n, output channels, height, width)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch_size, self.registers = config.patch_size, config.num_register_tokens
        self.modulation = Modulation(config.hidden_size, 2)
        self.output = nn.Linear(config.hidden_size, config.output_values)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition)
        return to_images(self.output(modulate(normed(tokens[:, self.registers :]), shift, scale)), self.patch_size)


class DiT(nn.Module):
    """The model and its loss; a batch is what NoisySamples gives of `latents` (n, channels, side, side)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)

    def forward(self, batch: Batch, task: Task = "loss") -> Tensor | dict[str, Tensor]:
        """`loss`: the mean over the samples, an fp32 scalar; `metrics`: their sum and number; `generate`: latents of
        the batch's labels out of its noise."""
        if task == "generate":
            return self._generate(self._noise(batch), batch["labels"])
        losses = self._losses(batch)
        if task == "loss":
            return losses.mean()
        return {"loss_sum": losses.sum(), "samples": losses.new_tensor(len(losses))}

    def _losses(self, batch: Batch) -> Tensor:
        clean, noise, timesteps = batch["latents"].float(), self._noise(batch), batch["times"]
        schedule = ddpm.schedule_at(timesteps)
        labels = batch["labels"].masked_fill(batch["unlabelled"], self.config.num_classes)
        output = self._predict(schedule.signal * clean + schedule.noise * noise, timesteps, labels)
        return ddpm.losses(output, clean, noise, timesteps)

    def _noise(self, batch: Batch) -> Tensor:
        return normals(batch["noise_keys"], *batch["latents"].shape[1:])

    def _predict(self, latents: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        tokens, condition = self.embedding(latents, timesteps, labels)
        for block in self.blocks:
            tokens = block(tokens, condition)
        return self.head(tokens, condition).float()  # type: ignore[no-any-return]

    def _generate(self, noise: Tensor, labels: Tensor) -> Tensor:
        config, channels = self.config, noise.size(1)

        def noise_in(latents: Tensor, timestep: Tensor) -> Tensor:
            def predict(latents: Tensor, labels: Tensor) -> Tensor:
                return self._predict(latents, timestep.expand(len(labels)), labels)[:, :channels]

            return guided(predict, latents, labels, none=config.num_classes, scale=config.guidance_scale)

        return ddpm.sample(noise_in, noise, config.sampling_steps)


def normed(tokens: Tensor) -> Tensor:
    """Layer norm without gain and bias, which modulation gives."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPS)


class DiTWorkload(DiffusionWorkload[DiTConfig]):
    """A DiT at one size with its options: a scalebench.workloads.base.Workload."""

    name = "dit"
    default_micro_batches = DEFAULT_MICRO_BATCH

    def build(self) -> DiT:
        """The module, with values left to `init_parameter_`."""
        return DiT(self.config)

    def init_parameter_(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """The paper's start: modulations and the output 0, so that a block begins as the identity; embeddings of
        labels, times and registers N(0, 0.02²); other products uniform by Glorot's rule; biases 0."""
        if name.endswith("bias") or ".modulation." in name or name.startswith("head."):
            tensor.zero_()
        elif name.startswith(("embedding.time.", "embedding.labels.", "embedding.registers")):
            tensor.normal_(0.0, INIT_STD, generator=generator)
        else:
            nn.init.xavier_uniform_(tensor, generator=generator)

    def flops_per_sample(self, *, causal: bool = False) -> float:
        """Model FLOPs of forward plus backward; every token looks at every other, `causal` or not."""
        config = self.config
        return dit_flops_per_sample(
            **self._blocks(),
            num_patches=config.num_patches,
            patch_values=config.patch_values,
            output_values=config.output_values,
            time_features=TIME_FEATURES,
        )

    def recomputed_flops_per_sample(self) -> float:
        """FLOPs of running each block's forward pass again: the whole of it, since the last gate's gradient needs the
        last product."""
        return dit_recomputed_flops_per_sample(**self._blocks())

    def saved_activations(self) -> Saved:
        """What the forward pass of one sample keeps (scalebench.theory.diffusion)."""
        config = self.config
        return dit_saved(**self._blocks(), num_heads=config.num_heads, num_patches=config.num_patches)

    def _blocks(self) -> dict[str, int]:
        names = ("num_layers", "hidden_size", "num_tokens")
        return {name: getattr(self.config, name) for name in names}

    def samples(self, data: str, seed: int) -> SampleSource:
        """Labelled latents with noise, timesteps and dropped labels by draw; `data` is a spec's (scalebench.data)."""
        config = self.config
        latents = open_latents(
            data,
            seed=seed,
            channels=config.latent_channels,
            latent_size=config.latent_size,
            num_classes=config.num_classes,
        )
        timesteps = Draws(seed=seed, purpose="times")
        return NoisySamples(
            source=latents,
            label_dropout=config.label_dropout,
            times=partial(timesteps.integers, below=TIMESTEPS),
            seed=seed,
        )
