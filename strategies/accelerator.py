"""Hugging Face's Accelerate on the ranks that exist: what the backends named accelerate_* share."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from .config import Precision, TrainConfig
from .framework import Framework
from .framework_step import FrameworkStep
from .loss_scaling import LossScaler
from .torch_step import NamedParameters

PRECISIONS: dict[Precision, str] = {"fp32": "no", "bf16": "bf16", "fp16": "fp16", "bf16-true": "no"}
"""What Accelerate calls them. It leaves parameters in the dtype it finds, which is all that bf16-true takes."""


@dataclass(frozen=True, kw_only=True)
class Accelerate(Framework):
    """A backend of Accelerate."""

    needs: ClassVar[str | None] = "accelerate"
    minimum_version: ClassVar[tuple[int, ...]] = (1, 10)

    def substitution(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        if config.precision == "fp16" and device_type == "cpu":
            return f"Accelerate runs fp16 as fp32 on a CPU, without a word: use bf16, or {self.raw.name}"
        if config.precision == "fp16-true":
            return f"Accelerate scales no loss in fp16-true, so that small gradients vanish: use {self.raw.name}"
        return None


def accelerator(config: TrainConfig, device: torch.device, **options: Any) -> Any:
    """An Accelerator on this rank of the default process group, which it finds initialised.

    Called inside `private_environment`. Of what it keeps per process `forget` rids the process again.
    """
    accelerate = importlib.import_module("accelerate")
    plugins = importlib.import_module("accelerate.utils")
    accumulation = plugins.GradientAccumulationPlugin(
        num_steps=config.accumulation,
        sync_with_dataloader=False,
        sync_each_batch=config.grad_sync == "every_micro_batch",
    )
    return accelerate.Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=PRECISIONS[config.precision],
        gradient_accumulation_plugin=accumulation,
        **options,
    )


def forget(accelerator: Any) -> None:
    """Clear what Accelerate shares between all its objects of a process. There is no public way to it."""
    accelerator.free_memory()
    state = importlib.import_module("accelerate.state")
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.GradientState._reset_state()


def count_skipped_steps(accelerator: Any, config: TrainConfig, device: torch.device) -> LossScaler:
    """The loss scaling of `accelerator`, from now on one that counts the steps it drops: its own sees none that a fused
    optimizer drops. Called before anything is prepared."""
    scaler = LossScaler(config, device)
    if accelerator.scaler is not None:
        accelerator.scaler = scaler
    return scaler


def accelerate_step(
    accelerator: Any,
    module: Any,
    wrapped: Any,
    *,
    config: TrainConfig,
    device: torch.device,
    whole_parameters: NamedParameters,
    scaler: LossScaler,
    after_inference: Callable[[], None] = lambda: None,
) -> FrameworkStep:
    """The step of a `module` and of the optimizer `wrapped` that `accelerator` has prepared."""
    parameters = list(module.parameters())

    def clip(max_norm: float) -> Tensor:
        norm: Tensor = accelerator.clip_grad_norm_(parameters, max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def sync(crosses_ranks: bool, last: bool) -> AbstractContextManager[object]:
        context: AbstractContextManager[object] = accelerator.accumulate(module)  # it counts the micro-batches itself
        return context

    return FrameworkStep(
        module=module,
        optimizer=wrapped.optimizer,
        wrapped=wrapped,
        wrapper=module,
        config=config,
        device=device,
        whole_parameters=whole_parameters,
        backward=accelerator.backward,
        clip=clip,
        sync=sync,
        scaler=scaler,
        release=lambda: forget(accelerator),
        after_inference=after_inference,
    )
