"""A DeepSpeed engine as a TrainStep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import compat
from .base import Batch, TrainStep
from .deepspeed_config import Plan


class DeepSpeedStep(TrainStep):
    """Runs the engine's forward, backward and step for each micro-batch; the engine scales the loss itself."""

    def __init__(self, deepspeed: Any, engine: Any, optimizer: torch.optim.Optimizer, plan: Plan) -> None:
        self.module = engine
        self.optimizer = optimizer
        self._deepspeed = deepspeed
        self._engine = engine
        self._plan = plan
        self._dtype = next(engine.module.parameters()).dtype
        self._scaler = compat.loss_scaler(engine)
        self._skipped: Tensor | None = None
        self._coalesces = plan.stage > 1 and plan.config.grad_sync == "last" and plan.config.accumulation > 1
        if plan.stage == 0:
            compat.keep_clipping_norm(engine)
        if self._coalesces:
            engine.set_gradient_accumulation_boundary(True)

    def __call__(self, micro_batches: Sequence[Batch]) -> Tensor:
        before = compat.scale_of(self._scaler) if self._scaler else None
        before = before.clone() if before is not None else None
        losses = self._coalesced(micro_batches) if self._coalesces else self._synchronised(micro_batches)
        self._count_skipped(before)
        return torch.stack(losses).mean()

    def _synchronised(self, micro_batches: Sequence[Batch]) -> list[Tensor]:
        """Gradients are reduced as the stage does it: on the last micro-batch (0, 1) or on every one (2, 3)."""
        losses = []
        for batch in micro_batches:
            losses.append(self._forward_backward(batch))
            self._engine.step()
        return losses

    def _coalesced(self, micro_batches: Sequence[Batch]) -> list[Tensor]:
        """Gradients stay whole on each rank until the last micro-batch, and are reduced once."""
        with self._engine.coalesce_grad_reduction():
            losses = [self._forward_backward(batch) for batch in micro_batches]
        self._engine.step()
        return losses

    def _forward_backward(self, batch: Batch) -> Tensor:
        loss: Tensor = self._engine(self._cast(batch))
        self._engine.backward(loss)
        return loss.detach().float()

    def _cast(self, batch: Batch) -> dict[str, Tensor]:
        """Floating-point inputs in the dtype of the parameters, as an engine that casts its module needs them."""
        return {name: t.to(self._dtype) if t.is_floating_point() else t for name, t in batch.items()}

    def _count_skipped(self, before: Tensor | None) -> None:
        """GradScaler lowers its scale exactly when it drops a step; counted on the device, without synchronising."""
        if self._scaler is None:
            return
        after = compat.scale_of(self._scaler)
        dropped = (after < before).long() if before is not None and after is not None else ...
