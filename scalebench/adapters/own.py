"""OwnWorkload: a user's module with its own initial values and its own data, as every strategy takes a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from scalebench.adapters import DEFAULT_MICRO_BATCH, OWN_DATA, SIZE
from scalebench.adapters.blocks import find_blocks, given_blocks
from scalebench.adapters.casting import failure_when_cast
from scalebench.adapters.importing import told
from scalebench.adapters.inspection import Inspection, can_be_tried, inspect_model, on_meta, state_of
from scalebench.adapters.root import PREFIX, Root
from scalebench.data.base import SampleSource
from scalebench.errors import UserError
from scalebench.strategies.base import Batch
from scalebench.strategies.config import OptimizerConfig
from scalebench.theory.activations import Saved
from scalebench.workloads.base import LearningRates

PROBABILITIES = ("dropout", "dropout_p", "attention_dropout", "drop_prob")
"""What modules call the probability of a dropout of their own."""
Opened = Callable[[str, int], SampleSource]
"""Gives the samples of a spec's `data` and `seed`."""


class OwnWorkload:
    """A user's own model: a scalebench.workloads.base.Workload.

    The module is built once per process on the CPU, from a seed, with whatever values its own initialisation gives.
    Strategies get copies on the meta device, and fill them with these values, so that all start bit-equal. Each rank
    therefore keeps one whole copy of the model in the host's memory.

    Args:
        root: the module as built. open_samples: its data.
        open_validation, open_test: what it is validated and tested on in a training, by seed; None: samples held out
            of its data.
        blocks: as Model has it. item, items_per_sample: as Model has them.
        optimizer: what the model brings along; where that cannot be built for every strategy, a sentence why.
        rates: how its learning rate changes from step to step; None: it stays.
        no_decay: parameters without weight decay; None: vectors and scalars.
        notes: what of the model is done in another way here, a sentence each.
    """

    size = SIZE
    default_micro_batch = DEFAULT_MICRO_BATCH

    def __init__(
        self,
        *,
        name: str,
        root: Root,
        open_samples: Opened,
        open_validation: Callable[[int], SampleSource] | None = None,
        open_test: Callable[[int], SampleSource] | None = None,
        blocks: str | Sequence[str] | None = None,
        item: str = "sample",
        items_per_sample: int = 1,
        optimizer: OptimizerConfig | str | None = None,
        rates: LearningRates | None = None,
        no_decay: frozenset[str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        _require_trainable(name, root)
        self.name, self.item, self.items_per_sample = name, item, items_per_sample
        self.rates, self.notes = rates, list(notes)
        self.open_validation, self.open_test = open_validation, open_test
        self._optimizer = optimizer
        self._root, self._open = root, open_samples
        self._state = state_of(root)
        self._no_decay = no_decay
        self._blocks = _blocks(root, blocks)
        self._failures: dict[bool, str | None] = {}

    @property
    def optimizer(self) -> OptimizerConfig | None:
        """What the model brings along, None without. Raises UserError when it cannot be built for every strategy."""
        if isinstance(self._optimizer, str):
            raise UserError(self._optimizer)
        return self._optimizer

    def build(self) -> nn.Module:
        """A copy of the module on the meta device."""
        with told(f"copying the module of {self.name}"):
            return on_meta(self._root)

    def init_parameter_(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """The value that the module's own initialisation gave it."""
        tensor.copy_(self._state[name])

    def block_names(self, module: nn.Module) -> list[str]:
        """The repeated blocks; empty when nothing is repeated."""
        return self._blocks

    def compiled_names(self, module: nn.Module) -> list[str]:
        """The blocks, or the whole module where nothing is repeated."""
        return self._blocks or [""]

    def no_decay_names(self, module: nn.Module) -> set[str]:
        """As the model's own optimizer has it, else vectors and scalars: biases and norm gains."""
        if self._no_decay is not None:
            return set(self._no_decay)
        return {name for name, value in self._state.items() if value.dim() < 2}

    def flops_per_sample(self, *, causal: bool = False) -> float | None:
        """Counted by FlopCounterMode, with full attention; what causal attention needs is unknown."""
        return None if causal else self.inspection.flops_per_sample

    def recomputed_flops_per_sample(self) -> float | None:
        """Unknown: what a block keeps is its own affair."""
        return None

    def saved_activations(self) -> Saved | None:
        """Unknown, as above."""
        return None

    def parameter_count(self) -> int:
        """Parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self._root.parameters())

    def samples(self, data: str, seed: int) -> SampleSource:
        """The model's own data. Raises UserError when others are asked for."""
        return self._open(data, seed)

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over samples of what `forward(batch, "metrics")` summed."""
        samples = float(sums["samples"])
        return {name.removesuffix("_sum"): float(total) / samples for name, total in sums.items() if name != "samples"}

    def without_dropout(self) -> OwnWorkload:
        """The same without dropout, as far as modules hold its probability: its random numbers depend on the rank."""
        other = copy.copy(self)
        other._root = copy.deepcopy(self._root)
        for module in other._root.modules():
            names = [*PROBABILITIES, *(["p"] if "Dropout" in type(module).__name__ else [])]
            for name in names:
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        return other

    @cached_property
    def inspection(self) -> Inspection:
        """What one loss on two samples shows. Raises UserError when it cannot be trained."""
        return inspect_model(self.name, self._root, self._two_samples())

    def failure_when_cast(self, *, by_block: bool) -> str | None:
        """As scalebench.adapters.casting has it, with the inputs of blocks cast too or not; None for a large model."""
        if by_block not in self._failures:
            blocks = self._blocks if by_block else []
            tried = can_be_tried(self._root)
            self._failures[by_block] = failure_when_cast(self._root, self._two_samples(), blocks) if tried else None
        return self._failures[by_block]

    def _two_samples(self) -> Batch:
        source = self._open(OWN_DATA, 0)
        return source.__getitems__([0, 1 % len(source)])


def _blocks(root: Root, given: str | Sequence[str] | None) -> list[str]:
    found = find_blocks(root.model) if given is None else given_blocks(root.model, given)
    return [PREFIX + name for name in found]


def _require_trainable(name: str, root: Root) -> None:
    """Raise UserError for a module that no strategy can build."""
    for key, parameter in root.model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UserError(f"{name}: the parameter {key} is not initialised. Call the module once in the factory.")
        if parameter.is_floating_point() and parameter.dtype is not torch.float32:
            raise UserError(
                f"{name}: the parameter {key} is of {str(parameter.dtype).removeprefix('torch.')}. Strategies start "
                "from float32: give module and data as such, and say --precision for what it computes in."
            )
    if not any(parameter.requires_grad for parameter in root.parameters()):
        raise UserError(f"{name} has no trainable parameters.")


def open_own(name: str, make: Callable[[int], SampleSource]) -> Opened:
    """What opens a dataset that came with the model."""

    def opened(data: str, seed: int) -> SampleSource:
        if data != OWN_DATA:
            raise UserError(f"{name} brings its own data, and takes no '{data}'. Leave it out.")
        return make(seed)

    return opened
