"""The `classifier` workload: a small image classifier with its loss, a perceptron or a convolutional network.

The perceptron has the form of Lightning's tutorial on MNIST (linear layers with ReLU and dropout), the convolutional
one that of PyTorch's basic MNIST example. Both are taught on real images on every machine: scikit-learn's digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from scalebench.data.base import SampleSource
from scalebench.data.images import open_images
from scalebench.strategies.base import Batch, Task
from scalebench.workloads.classifier_config import DEFAULT_MICRO_BATCH, ClassifierConfig
from scalebench.workloads.frame import Layered
from scalebench.workloads.values import ACTIVATIONS, from_bytes


class LinearBlock(nn.Module):
    """A linear layer with activation and dropout: (batch, ...), flattened to (batch, inputs), to (batch, outputs)."""

    def __init__(self, inputs: int, config: ClassifierConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, config.hidden_size)
        self.activate = ACTIVATIONS[config.activation]()
        self.dropout = config.dropout

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.activate(self.linear(values.flatten(1).to(self.linear.weight.dtype)))
        return F.dropout(hidden, self.dropout, self.training)


class ConvBlock(nn.Module):
    """A 3x3 convolution without padding, with activation: (batch, inputs, side, side) to two pixels less."""

    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3)
        self.activate = ACTIVATIONS[activation]()

    def forward(self, values: Tensor) -> Tensor:
        return self.activate(self.conv(values.to(self.conv.weight.dtype)))  # type: ignore[no-any-return]


class PooledBlock(nn.Module):
    """Pooling 2x2 and dropout, then a linear block: (batch, channels, side, side) to (batch, outputs)."""

    def __init__(self, inputs: int, config: ClassifierConfig) -> None:
        super().__init__()
        self.hidden = LinearBlock(inputs, config)
        self.dropout = config.dropout

    def forward(self, values: Tensor) -> Tensor:
        pooled = F.dropout(F.max_pool2d(values, 2), self.dropout, self.training)
        hidden: Tensor = self.hidden(pooled)
        return hidden


class Classifier(nn.Module):
    """The model and its loss. A batch is uint8 `images` (batch, channels, side, side) and int64 `labels` (batch,)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        mlp = config.network == "mlp"
        self.blocks = nn.ModuleList(linear_blocks(config) if mlp else conv_blocks(config))
        self.neck = nn.Identity() if mlp else pooled_block(config)
        self.head = nn.Linear(config.hidden_size, config.num_classes)

    def forward(self, batch: Batch, task: Task = "loss") -> Tensor | dict[str, Tensor]:
        """`loss`: mean cross-entropy in nats; `metrics`: its sum, how many were right, how many there are; `generate`:
        the likeliest class of each image, (batch,)."""
        logits = self._logits(from_bytes(batch["images"]))
        predicted = logits.argmax(1)
        if task == "generate":
            return predicted
        labels = batch["labels"]
        loss = F.cross_entropy(logits, labels)
        if task == "loss":
            return loss
        samples = loss.new_tensor(labels.numel())
        return {"loss_sum": loss * samples, "correct": (predicted == labels).sum(), "samples": samples}

    def _logits(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.neck(hidden))
        return logits.float()


def linear_blocks(config: ClassifierConfig) -> list[nn.Module]:
    """The hidden layers of the perceptron."""
    inputs = [config.channels * config.image_size**2, *[config.hidden_size] * (config.num_layers - 1)]
    return [LinearBlock(size, config) for size in inputs]


def conv_blocks(config: ClassifierConfig) -> list[nn.Module]:
    """The convolutions."""
    widths = [config.channels, config.width, *[2 * config.width] * (config.num_layers - 1)]
    return [ConvBlock(inputs, outputs, config.activation) for inputs, outputs in itertools.pairwise(widths)]


def pooled_block(config: ClassifierConfig) -> PooledBlock:
    """What leads from the convolutions to the classifier."""
    channels = config.width if config.num_layers == 1 else 2 * config.width
    side = (config.image_size - 2 * config.num_layers) // 2
    return PooledBlock(channels * side**2, config)


class ClassifierWorkload(Layered[ClassifierConfig]):
    """A classifier at one size with its options: a scalebench.workloads.base.Workload."""

    name = "classifier"
    default_micro_batches = DEFAULT_MICRO_BATCH

    def build(self) -> Classifier:
        """The module, with values left to `init_parameter_`."""
        return Classifier(self.config)

    def block_names(self, module: nn.Module) -> list[str]:
        """The hidden layers, or the convolutions, in order."""
        return [f"blocks.{index}" for index in range(self.config.num_layers)]

    def compiled_names(self, module: nn.Module) -> list[str]:
        """The blocks, what pools their result, and the classifier."""
        return [*self.block_names(module), "neck", "head"]

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """`loss` in nats per image, and `accuracy`, the share of images whose likeliest class is theirs."""
        samples = sums["samples"].double()
        return {
            "loss": (sums["loss_sum"].double() / samples).item(),
            "accuracy": (sums["correct"].double() / samples).item(),
        }

    def samples(self, data: str, seed: int) -> SampleSource:
        """Images and their classes; `data` is a spec's (scalebench.data)."""
        config = self.config
        return open_images(
            data,
            seed=seed,
            image_size=config.image_size,
            channels=config.channels,
            num_classes=config.num_classes,
        )
