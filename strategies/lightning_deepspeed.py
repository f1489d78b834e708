"""DeepSpeed as Lightning's Fabric runs it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import Batch, TrainStep, Workload
from .config import Casting, TrainConfig
from .deepspeed import DeepSpeed, prepare_engine
from .deepspeed_config import Plan
from .fabric import LightningFabric, attach, forward_module, load_strategies, rank_for_logs
from .framework import private_environment
from .framework_deepspeed import FrameworkDeepSpeedStep, refused

STEPS_THE_ENGINE = (
    "the engine itself is stepped: Fabric's wrapper of the optimizer does not know this engine for one, "
    "and would update behind its back"
)


@dataclass(frozen=True, kw_only=True)
class LightningDeepSpeed(LightningFabric):
    """lightning.fabric.strategies.DeepSpeedStrategy at stage 2, given the JSON of `deepspeed_stage_2`."""

    name: ClassVar[str] = "lightning_deepspeed_stage_2"
    raw: ClassVar[DeepSpeed] = DeepSpeed(stage=2)
    casting: ClassVar[Casting] = "engine-cast"
    resizes: ClassVar[bool] = False
    casts_inputs: ClassVar[bool] = False
    differs: ClassVar[tuple[str, ...]] = (STEPS_THE_ENGINE,)

    def substitution(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        if device_type == "cpu":
            return "Fabric refuses DeepSpeed on a CPU: use deepspeed_stage_2"
        return refused(config, "Fabric")

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        made: dict[str, Any] = {}

        def initialize(deepspeed: Any, module: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan) -> Any:
            with private_environment():
                strategy = self.strategy_class()(config=copy.deepcopy(plan.json))
                made["release"] = rank_for_logs()
                made["fabric"] = attach(strategy, self.plugin(config), device)
                made["module"], _ = made["fabric"].setup(module, optimizer)
            return forward_module(made["module"])

        prepared = prepare_engine(self.raw, workload, config, device, initialize)

        def micro_step(batch: Batch) -> Tensor:
            loss: Tensor = made["module"](batch).float()
            made["fabric"].backward(loss, model=made["module"])
            made["fabric"].strategy.optimizer_step(prepared.engine)
            return loss.detach()

        return FrameworkDeepSpeedStep(prepared, micro_step=micro_step, release=made["release"])

    def strategy_class(self) -> Any:
        """Fabric's class."""
        return load_strategies().DeepSpeedStrategy
