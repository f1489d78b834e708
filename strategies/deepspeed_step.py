"""A DeepSpeed engine as a TrainStep."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import compat
from .base import Batch, Task, TrainStep
from .deepspeed_config import Plan
from .ema import MovingAverage, averages_or_not
from .loss_scaling import LossScaler
from .safe_reading import read_plain

SAVED = "engine"
"""The folder that a saved engine's files are in."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An engine ready to train, of the package `deepspeed`, and what it was made of.

    Attributes:
        optimizer: the torch optimizer inside the engine's.
        scaler: the loss scaling that the engine was given, if any; at other times it has its own.
    """

    deepspeed: Any
    engine: Any
    optimizer: torch.optim.Optimizer
    plan: Plan
    scaler: LossScaler | None


class DeepSpeedStep(TrainStep):
    """Runs the engine's forward, backward and step for each micro-batch; the engine itself scales the loss."""

    def __init__(self, prepared: Prepared) -> None:
        engine, plan = prepared.engine, prepared.plan
        self.module = engine
        self.optimizer = prepared.optimizer
        self._deepspeed = prepared.deepspeed
        self._engine = engine
        self._accumulation = plan.config.accumulation
        self._coalesces = plan.coalesces
        self._scaler = prepared.scaler
        self._dtype = next(engine.module.parameters()).dtype
        self._device = torch.device(engine.device)
        decay = plan.config.ema_decay
        self._average = MovingAverage(lambda: compat.updated(engine, self.optimizer), decay) if decay else None

    def __call__(self, micro_batches: Sequence[Batch]) -> Tensor:
        assert len(micro_batches) == self._accumulation, "the divisor of the gradient is fixed at construction"
        skipped = self._engine.skipped_steps
        losses = self._coalesced(micro_batches) if self._coalesces else self._synchronised(micro_batches)
        if self._average and self._engine.skipped_steps == skipped:
            self._average.update(self._scaler.applied() if self._scaler else None)
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def _synchronised(self, micro_batches: Sequence[Batch]) -> list[Tensor]:
        """Gradients are reduced as the stage does it: on the last micro-batch (0, 1) or on every one (2, 3)."""
        return [self._micro_step(batch) for batch in micro_batches]

    def _micro_step(self, batch: Batch) -> Tensor:
        loss = self._forward_backward(batch)
        self._engine.step()
        return loss

    def _coalesced(self, micro_batches: Sequence[Batch]) -> list[Tensor]:
        """Gradients stay whole on each rank until the last micro-batch, and are reduced once."""
        with self._engine.coalesce_grad_reduction():
            losses = [self._forward_backward(batch) for batch in micro_batches]
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        return losses

    def _forward_backward(self, batch: Batch) -> Tensor:
        loss: Tensor = self._engine(self._cast(batch)).float()
        self._engine.backward(loss)
        return loss.detach()

    def _cast(self, batch: Batch) -> dict[str, Tensor]:
        """Floating-point inputs in the dtype of the parameters, which an engine that casts its module needs."""
        return {name: t.to(self._dtype) if t.is_floating_point() else t for name, t in batch.items()}

    def grad_norm(self) -> Tensor | None:
        norm = self._engine.get_global_grad_norm()
        # A number stays on the CPU: to put it on a GPU would be to wait for it.
        return None if norm is None else torch.as_tensor(norm, dtype=torch.float32).reshape(())

    def skipped_steps(self) -> int:
        return self._scaler.skipped_steps() if self._scaler else int(self._engine.skipped_steps)

    def infer(self, batch: Batch, task: Task) -> Any:
        self._engine.eval()
        with torch.no_grad():
            found = self._engine(self._cast(batch), task)
        self._engine.train()
        return found

    def set_learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def full_parameters(self, ema: bool = False) -> Iterator[tuple[str, Tensor]]:
        with averages_or_not(self._average, ema):
            for name, parameter in self._engine.module.named_parameters():
                yield name, self._whole(parameter).to("cpu", torch.float32, copy=True)

    @torch.no_grad()
    def _whole(self, parameter: torch.nn.Parameter) -> Tensor:
        master: Tensor | None = self._deepspeed.utils.safe_get_full_fp32_param(parameter)
        if master is not None:
            return master
        with self._deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    def save(self, folder: Path) -> None:
        """In DeepSpeed's own layout."""
        scaling = {"loss_scaling": self._scaler.state_dict()} if self._scaler else {}
        with contextlib.redirect_stdout(sys.stderr):
            self._engine.save_checkpoint(str(folder), tag=SAVED, client_state=scaling, save_latest=False)
        if self._average:
            torch.save(self._average.shares, _averages_file(folder))

    def load(self, folder: Path) -> None:
        compat.read_without_code(self._engine)
        with contextlib.redirect_stdout(sys.stderr):
            found, scaling = self._engine.load_checkpoint(str(folder), tag=SAVED)
        if found is None:
            raise RuntimeError(f"DeepSpeed finds no checkpoint of its own in {folder}")
        if self._scaler:
            self._scaler.load_state_dict(scaling["loss_scaling"])
        if self._average:
            self._average.shares = read_plain(_averages_file(folder), self._device)

    def observed_precision(self) -> Mapping[str, str]:
        return compat.observed_precision(self._engine)

    def close(self) -> None:
        compat.release(self._engine)


def _averages_file(folder: Path) -> Path:
    """Where this rank's share of the moving averages is."""
    return folder / f"averages-{dist.get_rank()}.pt"
