"""What workloads share beside their modules: the frame that follows from a configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from scalebench.theory.activations import Saved
from scalebench.theory.layers import recomputed_flops, training_flops
from scalebench.workloads.config import Config, LayeredConfig, TransformerConfig
from scalebench.workloads.norms import vector_names
from scalebench.workloads.values import HE, init_layer_

C = TypeVar("C", bound=Config)
L = TypeVar("L", bound=LayeredConfig)
T = TypeVar("T", bound=TransformerConfig)


class Sized(Generic[C]):
    """A model family at one size with its options: of a scalebench.workloads.base.Workload what needs no module."""

    default_micro_batches: ClassVar[Mapping[str, int]]
    """Of each size."""
    item = "image"
    items_per_sample = 1
    rates = None
    open_validation = None
    open_test = None

    def __init__(self, size: str, config: C) -> None:
        self.size = size
        self.config = config
        self.default_micro_batch = self.default_micro_batches[size]

    def saved_activations(self) -> Saved | None:
        """None: no formula is known here."""
        return None

    def parameter_count(self) -> int:
        """Trained parameters, tied ones counted once; a norm's running statistics are none."""
        return self.config.parameter_count

    def without_dropout(self) -> Self:
        """The same: where there is dropout, it is an option."""
        return self


class Layered(Sized[L]):
    """A network of convolutions and linear layers, of which its configuration has the list."""

    start_gain: ClassVar[float] = HE

    def init_parameter_(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """Weights N(0, start_gain / fan-in), biases 0, norms the identity."""
        init_layer_(name, tensor, generator, self.start_gain)

    def no_decay_names(self, module: nn.Module) -> set[str]:
        """Biases and norm gains."""
        return vector_names(module)

    def flops_per_sample(self, *, causal: bool = False) -> float:
        """Model FLOPs of forward plus backward (scalebench.theory.layers); nothing here is causal."""
        return training_flops(self.config.layers)

    def recomputed_flops_per_sample(self) -> float:
        """FLOPs of running each block's forward pass again, but for a last product that no backward pass needs."""
        return recomputed_flops(self.config.layers)


class Transformer(Sized[T]):
    """A module of an `embedding`, equal `blocks` and a `head`."""

    def block_names(self, module: nn.Module) -> list[str]:
        """The transformer blocks, in order."""
        return [f"blocks.{index}" for index in range(self.config.num_layers)]

    def compiled_names(self, module: nn.Module) -> list[str]:
        """Embedding, blocks and head: all but what is done with whole images, such as noising them."""
        return ["embedding", *self.block_names(module), "head"]

    def no_decay_names(self, module: nn.Module) -> set[str]:
        """Biases and norm gains; told by name, since a sharded parameter may have lost its shape."""
        return {name for name, _ in module.named_parameters() if name.endswith(("bias", "norm.weight"))}
