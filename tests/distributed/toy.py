"""A tiny workload with every awkward feature, and a plain PyTorch loop, written apart from the strategies, beside it.

Its embedding is tied to the head, most dimensions divide by no number of ranks, it has an integer buffer, and dropout
if asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


class ToyBlock(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.dropout(self.down(nn.functional.gelu(self.up(self.norm(hidden)))))


class ToyModel(nn.Module):
    def __init__(self, toy: Toy) -> None:
        super().__init__()
        self.embedding = nn.Embedding(toy.vocabulary, toy.width)
        self.position = nn.Parameter(torch.empty(toy.length, toy.width))
        self.register_buffer("order", torch.empty(toy.length, dtype=torch.int64))
        self.blocks = nn.ModuleList(ToyBlock(toy.width, toy.dropout) for _ in range(toy.depth))
        self.norm = nn.LayerNorm(toy.width)
        self.head = nn.Linear(toy.width, toy.vocabulary, bias=False)
        self.head.weight = self.embedding.weight
        if toy.unused_parameter:
            self.unused = nn.Parameter(torch.empty(toy.width))

    def forward(self, batch: Mapping[str, Tensor], task: str = "loss") -> Any:
        if task == "generate":  # all blocks twice: what follows on what follows
            return self._logits(self._logits(batch["input"]).argmax(-1)).argmax(-1)
        logits = self._logits(batch["input"])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch["target"].flatten())
        loss = loss + batch["spike"].sum() * self.position[0, 0].float()
        samples = batch["input"].size(0)
        return loss if task == "loss" else {"loss_sum": loss * samples, "samples": loss.new_tensor(samples)}

    def _logits(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids) + self.position[self.order]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden)).float()


@dataclass(frozen=True, kw_only=True)
class Toy:
    """The workload. A micro-batch is {"input", "target"}, token ids [samples, length], and "spike" [samples].

    The spike is 0, but in step `spike_step` so large that an element of one gradient overflows once the loss is scaled.
    """

    name: str = "toy"
    vocabulary: int = 37
    width: int = 10
    length: int = 6
    depth: int = 3
    dropout: float = 0.0
    spike_step: int | None = None
    unused_parameter: bool = False

    def build(self) -> nn.Module:
        return ToyModel(self)

    def init_parameter_(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        if name == "order":
            tensor.copy_(torch.arange(self.length - 1, -1, -1))
        elif name.endswith("bias"):
            tensor.zero_()
        elif "norm" in name:
            tensor.fill_(1.0)
        else:
            tensor.normal_(0.0, 0.3, generator=generator)

    def block_names(self, module: nn.Module) -> list[str]:
        return [f"blocks.{index}" for index in range(self.depth)]

    def compiled_names(self, module: nn.Module) -> list[str]:
        return self.block_names(module)

    def no_decay_names(self, module: nn.Module) -> set[str]:
        return {name for name, _ in module.named_parameters() if name.endswith("bias") or "norm" in name}

    def micro_batch(self, step: int, index: int, samples: int = 3) -> Batch:
        """Global micro-batch `index` of optimizer step `step`: the same whoever asks for it."""
        generator = torch.Generator().manual_seed(1000 * step + index)
        ids = torch.randint(0, self.vocabulary, (samples, self.length + 1), generator=generator)
        spike = torch.full((samples,), 1e36 if step == self.spike_step else 0.0)
        return {"input": ids[:, :-1], "target": ids[:, 1:], "spike": spike}

    def share(self, step: int, rank: int, accumulation: int) -> list[Batch]:
        """The micro-batches of `rank` in `step`: `accumulation` of them in a row."""
        return [self.micro_batch(step, rank * accumulation + index) for index in range(accumulation)]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a training run gave: mean loss and gradient norm of every step, and the final parameters by name."""

    losses: list[float]
    norms: list[float]
    parameters: dict[str, Tensor]


def train_plainly(
    toy: Toy,
    start: Mapping[str, Tensor],
    optimizer: str,
    steps: int,
    micro_batches: int,
    clip_norm: float | None = None,
    autocast: torch.dtype | None = None,
) -> Trace:
    """Plain PyTorch on one process over all global micro-batches of each step, from `start`; `sgd` or `adamw`."""
    model = ToyModel(toy)
    order = torch.arange(toy.length - 1, -1, -1)
    model.load_state_dict({**start, "head.weight": start["embedding.weight"], "order": order})
    update = _plain_optimizer(model, optimizer)
    losses, norms = [], []
    for step in range(steps):
        if step == toy.spike_step:
            continue  # loss scaling drops it
        update.zero_grad()
        total = 0.0
        for index in range(micro_batches):
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                loss = model(toy.micro_batch(step, index))
            (loss / micro_batches).backward()
            total += loss.item() / micro_batches
        losses.append(total)
        norms.append(_plain_clip(list(model.parameters()), clip_norm))
        update.step()
    return Trace(losses=losses, norms=norms, parameters={n: p.detach().clone() for n, p in model.named_parameters()})


def _plain_clip(parameters: Sequence[Tensor], clip_norm: float | None) -> float:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = sum(gradient.double().pow(2).sum().item() for gradient in gradients) ** 0.5
    if clip_norm is not None and norm > clip_norm:
        for gradient in gradients:
            gradient.mul_(clip_norm / norm)
    return norm


LEARNING_RATE = {"sgd": 0.5, "adamw": 3e-2}
WEIGHT_DECAY = 0.1


def _plain_optimizer(model: nn.Module, name: str) -> torch.optim.Optimizer:
    plain = [p for n, p in model.named_parameters() if n.endswith("bias") or "norm" in n]
    decayed = [p for n, p in model.named_parameters() if not (n.endswith("bias") or "norm" in n)]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=LEARNING_RATE[name], momentum=0.9, foreach=False)
    return torch.optim.AdamW(groups, lr=LEARNING_RATE[name], betas=(0.9, 0.95), foreach=False)
