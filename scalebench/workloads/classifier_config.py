"""The options and sizes of the `classifier` workload. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalebench.errors import UserError
from scalebench.theory.classifier import conv_layers, mlp_layers
from scalebench.theory.layers import Layer
from scalebench.workloads.config import LayeredConfig

Network = Literal["mlp", "conv"]
Activation = Literal["relu", "silu"]


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(LayeredConfig):
    """The shape of a small image classifier; the fields are the options of `--set workload.NAME=VALUE`.

    Attributes:
        network: `mlp`: linear layers alone; `conv`: 3x3 convolutions without padding, pooled, before one linear layer.
        image_size: pixels along a side, to which images are brought.
        channels: 1 for grey images, 3 for coloured ones.
        num_classes: classes of the data.
        num_layers: hidden linear layers of `mlp`, convolutions of `conv`.
        hidden_size: width of the hidden linear layers.
        width: channels of the first convolution; the others have twice as many.
        activation: `relu`, as published, or `silu`, which has no kink.
        dropout: probability, after every hidden linear layer and after the pooling.

    Raises UserError for a shape that cannot be built.
    """

    network: Network
    image_size: int = 28
    channels: int = 1
    num_classes: int = 10
    num_layers: int = 2
    hidden_size: int = 64
    width: int = 32
    activation: Activation = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self.require_whole("image_size", "channels", "num_classes", "num_layers", "hidden_size", "width")
        self.require_probability("dropout")
        least = 2 * self.num_layers + 2
        if self.network == "conv" and self.image_size < least:
            raise UserError(
                f"workload.image_size {self.image_size} is too small for {self.num_layers} convolutions without "
                f"padding; give at least {least}, or a smaller workload.num_layers."
            )

    @property
    def layers(self) -> list[Layer]:
        """What it is made of (scalebench.theory.classifier)."""
        shape = {"num_layers": self.num_layers, "hidden_size": self.hidden_size, "num_classes": self.num_classes}
        if self.network == "mlp":
            return list(mlp_layers(pixels=self.channels * self.image_size**2, **shape))
        return list(conv_layers(image_size=self.image_size, channels=self.channels, width=self.width, **shape))


SIZES: dict[str, ClassifierConfig] = {
    "tiny": ClassifierConfig(network="mlp", image_size=8, dropout=0.1),
    "mlp": ClassifierConfig(network="mlp", dropout=0.1),
    "conv": ClassifierConfig(network="conv", hidden_size=128, dropout=0.25),
}
"""`mlp` is the classifier of Lightning's tutorial on MNIST (two hidden layers of 64, 55,050 parameters), `tiny` the
same on images of 8 x 8, as scikit-learn's digits are; `conv` is that of PyTorch's basic MNIST example (1,199,882)."""

DEFAULT_MICRO_BATCH: dict[str, int] = {"tiny": 32, "mlp": 32, "conv": 32}
