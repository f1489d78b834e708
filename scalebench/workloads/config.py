"""What the options of every workload have in common. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from scalebench.errors import UserError
from scalebench.theory.layers import Layer, parameters

LARGEST = 2**31 - 1
"""Of any whole option: tokens, labels and the numbers of them are held in 32 bits."""


@dataclass(frozen=True, kw_only=True)
class Config(ABC):
    """The shape of a model; its fields are the options of `--set workload.NAME=VALUE`.

    Fields are annotated as int, float, bool, str, a Literal of strings, or one of these or None.
    """

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """Trained parameters, tied ones counted once."""

    def require_whole(self, *names: str, least: int = 1) -> None:
        """Raise UserError for the first of these options that is below `least`, or too large."""
        for name in names:
            value = getattr(self, name)
            if not least <= value <= LARGEST:
                raise UserError(
                    f"workload.{name} is {value}; give a whole number of at least {least}, at most {LARGEST}."
                )

    def require_probability(self, *names: str) -> None:
        """Raise UserError for the first of these options that is no probability below 1."""
        for name in names:
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UserError(f"workload.{name} is {value}; give a probability of at least 0 and below 1.")


class LayeredConfig(Config):
    """The shape of a network that is known layer by layer."""

    @property
    @abstractmethod
    def layers(self) -> list[Layer]:
        """What it is made of."""

    @property
    def parameter_count(self) -> int:
        """Weights and biases of all layers, gain and bias of each norm."""
        return parameters(self.layers)


class TransformerConfig(Config):
    """The shape of a stack of equal blocks. Each family declares these options itself, in its own order."""

    num_layers: int


class CausalConfig(TransformerConfig):
    """The shape of a language model."""

    context_length: int
    vocab_size: int
