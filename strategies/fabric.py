"""Lightning's Fabric on the ranks that exist: what the backends named lightning_* share."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .config import Precision, TrainConfig
from .framework import Framework
from .framework_step import FrameworkStep
from .loss_scaling import LossScaler
from .torch_step import NamedParameters

PRECISIONS: dict[Precision, str] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
    "bf16-true": "bf16-true",
    "fp16-true": "16-true",
}
CASTING_PLUGINS = ("bf16-mixed", "bf16-true")
INPUTS_CAST = "floating-point inputs are cast to 16 bit before the model, as Fabric's precision plugin does it"


@dataclass(frozen=True, kw_only=True)
class LightningFabric(Framework):
    """A backend of Lightning's Fabric."""

    needs: ClassVar[str | None] = "lightning"
    minimum_version: ClassVar[tuple[int, ...]] = (2, 6)
    casts_inputs: ClassVar[bool] = True
    """Whether Fabric's precision plugin casts floating-point inputs that the raw strategy leaves as they are."""

    def substitution(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        if config.precision == "fp16" and device_type == "cpu":
            return f"Fabric runs fp16 as bf16 on a CPU, without a word: use bf16, or {self.raw.name}"
        if config.precision == "fp16":
            return (
                "under fp16 Fabric clips no gradients of a fused optimizer, which all strategies share here: "
                f"use bf16, or {self.raw.name}"
            )
        if config.precision == "fp16-true":
            return f"Fabric scales no loss in fp16-true, so that small gradients vanish: use {self.raw.name}"
        return None

    def plugin(self, config: TrainConfig) -> str:
        """The precision that Fabric is given, in its own words."""
        return PRECISIONS[config.precision]

    def unmatched(self, config: TrainConfig, device_type: str, world_size: int) -> tuple[str, ...]:
        casts = config.profile == "matched" and self.casts_inputs and self.plugin(config) in CASTING_PLUGINS
        return (*super().unmatched(config, device_type, world_size), *([INPUTS_CAST] if casts else []))


def load() -> Any:
    """The package lightning.fabric. Importing it wraps torch.compile for the whole process: that is undone."""
    compile_of_torch = torch.compile
    module = importlib.import_module("lightning.fabric")
    torch.compile = compile_of_torch
    return module


def load_strategies() -> Any:
    """The package of Fabric's own strategies."""
    load()
    return importlib.import_module("lightning.fabric.strategies")


def attach(strategy: Any, precision: str, device: torch.device) -> Any:
    """A Fabric under `strategy` on this rank of the default process group, which it finds initialised.

    Called inside `private_environment`. Ranks are where torchrun's variables say.
    """
    environments = importlib.import_module("lightning.fabric.plugins.environments")
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
    fabric = load().Fabric(
        accelerator=device.type,
        devices=ranks_here,
        num_nodes=dist.get_world_size() // ranks_here,
        strategy=strategy,
        precision=precision,
        plugins=[environments.TorchElasticEnvironment()],
    )
    fabric.launch()
    return fabric


def forward_module(module: Any) -> nn.Module:
    """What Fabric's module calls: the model as its strategy wrapped it. There is no public way to it."""
    found: nn.Module = module._forward_module
    return found


def rank_for_logs() -> Callable[[], None]:
    """Remember the rank by which Lightning decides who logs, a global of its own; what is returned puts it back."""
    only: Any = importlib.import_module("lightning.fabric.utilities.rank_zero").rank_zero_only
    return functools.partial(setattr, only, "rank", only.rank)


def fabric_step(
    fabric: Any,
    module: Any,
    wrapped: Any,
    *,
    config: TrainConfig,
    device: torch.device,
    whole_parameters: NamedParameters,
    release: Callable[[], None],
    **options: Any,
) -> FrameworkStep:
    """The step of a `module` and of the optimizer `wrapped` that `fabric` has set up; `options` are TorchStep's."""
    matched = config.profile == "matched"

    def backward(loss: Tensor) -> None:
        fabric.backward(loss / config.accumulation if config.accumulation > 1 else loss)

    def clip(max_norm: float) -> Tensor:
        # Asked to raise on infinite norms, as it does by default, it waits for the device at every step.
        norm: Tensor = fabric.clip_gradients(module, wrapped, max_norm=max_norm, error_if_nonfinite=not matched)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def sync(crosses_ranks: bool, last: bool) -> AbstractContextManager[object]:
        context: AbstractContextManager[object] = fabric.no_backward_sync(module, enabled=not crosses_ranks)
        return context

    return FrameworkStep(
        module=module,
        optimizer=wrapped.optimizer,
        wrapped=wrapped,
        wrapper=forward_module(module),
        config=config,
        device=device,
        whole_parameters=whole_parameters,
        backward=backward,
        clip=clip,
        sync=sync,
        scaler=LossScaler(config, device),
        release=release,
        **options,
    )
