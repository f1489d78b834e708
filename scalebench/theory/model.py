"""A model as the backends see it: its parameters, which of them belong together, and in which order they are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter tensor. `decays` tells which of the optimizer's groups, with or without weight decay, it is in."""

    shape: tuple[int, ...]
    decays: bool = True

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def sharded_rows(self, ranks: int) -> int:
        """Elements of one rank's shard when dimension 0 is cut into `ranks` equal pieces, the last ones padded."""
        rows = self.shape[0] if self.shape else 1
        return -(-rows // ranks) * prod(self.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module, the parameters (by index) it holds itself, tied ones included, and the modules that run inside of it.

    `children` are in the order of registration, which is taken for the order of the forward pass. `block` marks the
    repeated blocks.
    """

    own: tuple[int, ...] = ()
    children: tuple[Module, ...] = ()
    block: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's parameters and modules.

    Attributes:
        parameters: each once, tied ones too, in the order of `named_parameters()`.
        blocks: the parameters (by index) of each repeated block.
        root: the whole model.
        buffer_bytes: of what is not trained but belongs to the model's state.
    """

    parameters: tuple[Parameter, ...]
    blocks: tuple[tuple[int, ...], ...] = ()
    root: Module = Module()
    buffer_bytes: int = 0

    @cached_property
    def elements(self) -> int:
        """Trained elements, tied ones once."""
        return sum(parameter.elements for parameter in self.parameters)

    @cached_property
    def rest(self) -> tuple[int, ...]:
        """The parameters outside of every block."""
        inside = {index for block in self.blocks for index in block}
        return tuple(index for index in range(len(self.parameters)) if index not in inside)

    def backward_order(self, *, weight_first: bool = False) -> list[Parameter]:
        """Parameters in the order in which their gradients get ready: that of use, reversed.

        A module is taken to use its children in order and then its own parameters; a tied one is ready with its first
        use. Of a product's own parameters torch hands over the bias first, ZeRO-3's product the weight.
        """
        uses = list(_uses_reversed(self.root, weight_first))
        unused = set(range(len(self.parameters))) - set(uses)
        order = [*sorted(unused, reverse=True), *uses]
        return self.pick(reversed(dict.fromkeys(reversed(order))))

    def groups(self) -> list[list[Parameter]]:
        """The optimizer's parameter groups: with weight decay, then without; no empty one."""
        groups = [[p for p in self.parameters if p.decays is decays] for decays in (True, False)]
        return [group for group in groups if group]

    def pick(self, indices: Iterable[int]) -> list[Parameter]:
        """The parameters of these indices."""
        return [self.parameters[index] for index in indices]


def _uses_reversed(module: Module, weight_first: bool) -> Iterator[int]:
    yield from module.own if weight_first else reversed(module.own)
    for child in reversed(module.children):
        yield from _uses_reversed(child, weight_first)
