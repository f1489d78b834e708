"""DeepSpeed as Accelerate runs it."""

from __future__ import annotations

import copy
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .accelerator import Accelerate, accelerator, forget
from .base import Batch, TrainStep, Workload
from .config import Casting, TrainConfig
from .deepspeed import DeepSpeed, prepare_engine
from .deepspeed_config import Plan
from .framework import private_environment
from .framework_deepspeed import FrameworkDeepSpeedStep, refused


@dataclass(frozen=True, kw_only=True)
class AccelerateDeepSpeed(Accelerate):
    """accelerate.Accelerator with a DeepSpeedPlugin of stage 2, given the JSON of `deepspeed_stage_2`."""

    name: ClassVar[str] = "accelerate_deepspeed_stage_2"
    raw: ClassVar[DeepSpeed] = DeepSpeed(stage=2)
    casting: ClassVar[Casting] = "engine-cast"
    resizes: ClassVar[bool] = False

    def substitution(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        if device_type == "cpu":
            return "Accelerate runs DDP in the place of DeepSpeed on a CPU, without a word: use deepspeed_stage_2"
        if importlib.util.find_spec("transformers") is None:
            return "Accelerate's DeepSpeed plugin needs transformers, which is not installed: pip install transformers"
        return refused(config, "Accelerate")

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        made: list[Any] = []

        def initialize(deepspeed: Any, module: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan) -> Any:
            with private_environment():
                plugin = importlib.import_module("accelerate.utils").DeepSpeedPlugin(
                    hf_ds_config=copy.deepcopy(plan.json)
                )
                made.append(accelerator(config, device, deepspeed_plugin=plugin))
                engine, _ = made[0].prepare(module, optimizer)
            return engine

        prepared = prepare_engine(self.raw, workload, config, device, initialize)

        def micro_step(batch: Batch) -> Tensor:
            with made[0].accumulate(prepared.engine):
                loss: Tensor = prepared.engine(batch).float()
                made[0].backward(loss)  # which updates too, when it is the last micro-batch's
            return loss.detach()

        def release() -> None:
            made[0].deepspeed_engine_wrapped = None  # already destroyed
            forget(made[0])

        return FrameworkDeepSpeedStep(prepared, micro_step=micro_step, release=release)
