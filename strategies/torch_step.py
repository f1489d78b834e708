"""TorchStep: the one optimizer step that single, DDP, FSDP2 and FSDP1 share; each gives it what differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .base import Batch, Task, TrainStep
from .config import TrainConfig
from .construct import compute_dtype
from .ema import MovingAverage, averages_or_not
from .loss_scaling import LossScaler
from .saved_state import AVERAGES, load_parameters, load_state, save_parameters, save_state

SyncContext = Callable[[bool, bool], AbstractContextManager[object]]
"""The context of one micro-batch; its arguments: do gradients cross ranks in it, and is it the step's last."""
Clip = Callable[[float], Tensor]
"""Scales the gradients down to the given global norm and returns their norm before: a scalar."""
NamedParameters = Callable[[], Iterable[tuple[str, Tensor]]]
"""Every parameter whole, with its name in the unwrapped module. Collective."""


def no_sync_needed(crosses_ranks: bool, last: bool) -> AbstractContextManager[object]:
    """The SyncContext that leaves everything as it is."""
    return nullcontext()


class TorchStep(TrainStep):
    """Forward and backward of every micro-batch, unscale, clip, update.

    Args:
        module: wrapped; its forward gives the mean loss of a batch.
        whole_parameters: as NamedParameters says.
        clip: as Clip says.
        sync: as SyncContext says; by default there is nothing to hold back.
        scaler: loss scaling, disabled where the precision needs none.
        autocast: whether torch.autocast does the casting (with `fp16` and `bf16`), rather than the backend.
        after_inference: brings the module back to rest.
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        device: torch.device,
        whole_parameters: NamedParameters,
        clip: Clip,
        scaler: LossScaler,
        sync: SyncContext = no_sync_needed,
        autocast: bool = True,
        after_inference: Callable[[], None] = lambda: None,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self._accumulation = config.accumulation
        self._sync_every = config.grad_sync == "every_micro_batch"
        self._max_norm = config.clip_norm or (math.inf if config.record_grad_norm else None)
        self._norm: Tensor | None = None
        self._share = torch.tensor(1.0 / config.accumulation, device=device)
        self._autocast = torch.autocast(device.type, compute_dtype(config), enabled=autocast and config.mixed)
        self._whole_parameters = whole_parameters
        self._clip = clip
        self._scaler = scaler
        self._sync = sync if config.accumulation > 1 else no_sync_needed
        self._after_inference = after_inference
        self._average = MovingAverage(self._updated, config.ema_decay) if config.ema_decay else None

    def __call__(self, micro_batches: Sequence[Batch]) -> Tensor:
        assert len(micro_batches) == self._accumulation, "the divisor of the gradient is fixed at construction"
        self._zero_grad()
        losses = []
        for index, batch in enumerate(micro_batches, start=1):
            last = index == self._accumulation
            with self._sync(self._sync_every or last, last):
                losses.append(self._forward_backward(batch))
        self._update()
        if self._average:
            self._average.update(self._scaler.applied())
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def _forward_backward(self, batch: Batch) -> Tensor:
        with self._autocast:
            loss: Tensor = self.module(batch).float()
        self._backward(loss)
        return loss.detach()

    def _zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def _backward(self, loss: Tensor) -> None:
        # Starting the backward pass from 1/accumulation (times the loss scale) spares a division of the loss.
        torch.autograd.backward(loss, self._scaler.scale(self._share))

    def _update(self) -> None:
        self._scaler.unscale_(self.optimizer)
        if self._max_norm is not None:
            self._norm = self._clip(self._max_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def grad_norm(self) -> Tensor | None:
        return self._norm

    def skipped_steps(self) -> int:
        return self._scaler.skipped_steps()

    def infer(self, batch: Batch, task: Task) -> Any:
        self.module.eval()
        with torch.no_grad(), self._autocast:
            found = self.module(batch, task)
        self.module.train()
        self._after_inference()
        return found

    def set_learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def full_parameters(self, ema: bool = False) -> Iterator[tuple[str, Tensor]]:
        with averages_or_not(self._average, ema):
            for name, parameter in self._whole_parameters():
                yield name, parameter.detach().to("cpu", torch.float32, copy=True)

    @property
    def _wrapper(self) -> nn.Module:
        """The module as torch wraps it, from which torch tells the names of the unwrapped one."""
        return self.module

    def _updated(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def save(self, folder: Path) -> None:
        save_state(folder, self._wrapper, self.optimizer, self._scaler)
        if self._average:
            for number, _ in enumerate(self._average.as_summands()):
                save_parameters(folder / f"{AVERAGES}{number or ''}", self._wrapper)

    def load(self, folder: Path) -> None:
        if self._average:
            self._average.restart(self._averages_in(folder))
        load_state(folder, self._wrapper, self.optimizer, self._scaler)

    def _averages_in(self, folder: Path) -> Iterator[None]:
        """At each, the parameters hold one summand of their averages."""
        assert self._average is not None
        for number in range(self._average.summands()):
            load_parameters(folder / f"{AVERAGES}{number or ''}", self._wrapper)
            yield

    def observed_precision(self) -> Mapping[str, str]:
        return {}


def clip_by_global_norm(parameters: Sequence[Tensor]) -> Clip:
    """Clip `parameters`, sharded or not, by the global 2-norm of their gradients (Pascanu et al., arXiv:1211.5063)."""

    def clip(max_norm: float) -> Tensor:
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()  # one all-reduce, whose result serves clipping and grad_norm alike
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    return clip
