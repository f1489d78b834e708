"""The contracts between the harness, the strategies and the workloads: Batch, Workload, TrainStep, Strategy.

A strategy is a frozen object of options. Its `prepare` wraps a workload and returns a TrainStep: a callable that runs
one whole optimizer step (every micro-batch's forward and backward, gradient reduction, clipping, update). Finer hooks
would not hold DeepSpeed, whose engine owns its backward, clipping and update.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .config import Casting, GradSync, TrainConfig

Batch = Mapping[str, Tensor]
"""One micro-batch on the device: name to tensor, first dimension the samples."""

Task = Literal["loss", "metrics", "generate"]
"""What a module's forward is asked for. Wrappers hook forward alone, so that everything has to go through it."""


@runtime_checkable
class Workload(Protocol):
    """A model and its loss, as the strategies need it. See scalebench.workloads for what a workload offers beyond
    this."""

    name: str

    def build(self) -> nn.Module:
        """The module, whose `forward(batch, task="loss")` gives what `task` asks of a batch:

        - `loss`: its mean loss: a scalar, computed in fp32 always;
        - `metrics`: by name, sums that add up over batches and ranks to what the workload's metrics are made of;
        - `generate`: one sample for each of its own (a continuation, a reconstruction, a prediction).

        Called under a meta-device context or zero.Init: it must not read parameter values. All randomness of
        initialisation is left to `init_parameter_`.
        """

    def init_parameter_(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """Fill `tensor` (full, unsharded, fp32, on any device) as parameter or buffer `name` starts."""

    def block_names(self, module: nn.Module) -> list[str]:
        """Fully qualified names of the repeated blocks: what is sharded, checkpointed and compiled one by one."""

    def compiled_names(self, module: nn.Module) -> list[str]:
        """Fully qualified names of all regions to compile: the blocks and what lies outside them (embedding, head and
        loss)."""

    def no_decay_names(self, module: nn.Module) -> set[str]:
        """Parameters without weight decay (by convention vectors: biases and norm gains)."""


class TrainStep(ABC):
    """One optimizer step of a wrapped workload, and what may be asked of it off the clock."""

    module: nn.Module
    """The module as the backend runs it (wrapped), for observation only."""
    optimizer: torch.optim.Optimizer
    """The torch optimizer that holds the state (inside DeepSpeed's wrapper, the base optimizer), for observation
    only."""

    @abstractmethod
    def __call__(self, micro_batches: Sequence[Batch]) -> Tensor:
        """Run one optimizer step; `micro_batches` are this rank's, already on the device.

        Returns this rank's mean loss over them: a detached fp32 scalar on the device. Adds no host synchronisation of
        its own; a backend's own (overflow checks, norms) belong to its cost.
        """

    @abstractmethod
    def grad_norm(self) -> Tensor | None:
        """Global 2-norm of the last step's mean gradient, before clipping and after unscaling; None when not computed.

        Computed when `clip_norm` is set or `record_grad_norm` is asked. A scalar (tensor, on the device).
        """

    @abstractmethod
    def skipped_steps(self) -> int:
        """Optimizer steps dropped by loss scaling since `prepare`. Off the clock: it may synchronise."""

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """The sums of the task `metrics` for this rank's `batch`, by name: fp32, on the device. Collective.

        They are added up over batches and ranks, in fp64 where that is many; the workload's `metrics` divides them.
        """
        sums: Mapping[str, Tensor] = self.infer(batch, "metrics")
        return {name: value.float() for name, value in sums.items()}

    def generate(self, batch: Batch) -> Tensor:
        """One generated sample for each of `batch`, as the module's task `generate` makes them. Collective."""
        samples: Tensor = self.infer(batch, "generate")
        return samples

    @abstractmethod
    def infer(self, batch: Batch, task: Task) -> Any:
        """What the wrapped forward gives for `task`, in evaluation mode and without gradients. Collective.

        Leaves no trace: parameters, gradients and the training mode are afterwards what they were.
        """

    @abstractmethod
    def set_learning_rate(self, value: float) -> None:
        """Set every parameter group's learning rate from the next step on."""

    @abstractmethod
    def full_parameters(self, ema: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Every parameter whole, one at a time, as (name in the unwrapped module, fp32 CPU copy), in a fixed order.

        Master values where the backend keeps masters; with `ema` their moving averages, where the run keeps them.
        Collective: every rank must iterate to the end together.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what training goes on from into the empty `folder`: parameters, buffers, optimizer, loss scaling.

        Each rank writes what it holds; all must see the same folder. Collective.
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Take up what `save` has written, to the bit where the ranks are as many as then. Collective.

        See `Strategy.resizes` for other numbers of ranks.
        """

    @abstractmethod
    def observed_precision(self) -> Mapping[str, str]:
        """Facts a generic observer cannot see in this backend (e.g. DeepSpeed's master dtype); often empty."""

    def close(self) -> None:
        """Release what the backend holds (hooks, threads, patched functions)."""
        return


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """A backend with its options. Fields are the options that `--set strategy.NAME=VALUE` may change."""

    name: ClassVar[str]
    casting: ClassVar[Casting] = "autocast"
    default_grad_sync: ClassVar[GradSync] = "last"
    max_world_size: ClassVar[int | None] = None
    needs: ClassVar[str | None] = None
    """The optional package this backend is made of, if any."""

    resizes: ClassVar[bool] = True
    """Whether what its step saves can be loaded on another number of ranks, and by the others of which this is true."""

    evaluates_alone: ClassVar[bool] = False
    """Whether one rank can evaluate while the others wait: it holds the whole model, and torch alone runs it."""

    needs_process_group: ClassVar[bool] = True
    """Whether `prepare` needs a default process group even on one rank."""

    def unsupported_reason(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        """Why this cell cannot run and what to do instead, or None. Touches no device."""
        return None

    def contradictions(self, config: TrainConfig, world_size: int) -> list[str]:
        """One sentence for each option that contradicts the run, with what to do: mistakes, told before any run."""
        return []

    def unmatched(self, config: TrainConfig, device_type: str, world_size: int) -> tuple[str, ...]:
        """What the `matched` profile asks for and this backend cannot give, one plain sentence each."""
        return ()

    @property
    def offloads(self) -> bool:
        """Whether parameters or optimizer state live on the CPU while the model computes elsewhere."""
        return False

    @abstractmethod
    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        """Build, wrap, initialise. With more than one rank the default process group is already initialised."""

    def options(self) -> dict[str, object]:
        """The options as plain values, in the order they are declared."""
        return dataclasses.asdict(self)
