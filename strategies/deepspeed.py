"""DeepSpeed: its engine at ZeRO stages 0 to 3, with offload, or as a user's own JSON says.

The engine owns its backward, reduction, clipping and update. The optimizer is torch's fused one in both profiles:
DeepSpeed's own are compiled on first use, which this project never does.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from . import compat
from .base import Strategy, TrainStep, Workload
from .config import Casting, GradSync, TrainConfig
from .construct import build_on_meta, build_optimizer, materialise_, parameter_groups
from .deepspeed_config import Plan, build, check_user_config, resolved_offload, resolved_stage
from .deepspeed_step import DeepSpeedStep, partition_, restore_masters_, verify

NOT_ZERO_OPTIONS = ("stage", "offload", "config")


@dataclass(frozen=True, kw_only=True)
class DeepSpeed(Strategy):
    """`deepspeed.initialize` with a ZeRO stage.

    Attributes:
        stage: 0 (no sharding), 1 (optimizer state), 2 (and gradients), 3 (and parameters); None: the JSON's, else 2.
        offload: optimizer state (at stage 3 parameters too) on the CPU; None: as the JSON says, else no.
        config: a user's own DeepSpeed JSON, laid over ours.

    The others are entries of DeepSpeed's `zero_optimization` section under its own names; None leaves them to the
    profile. Sizes are in elements.
    """

    name: ClassVar[str] = "deepspeed"
    needs: ClassVar[str | None] = "deepspeed"

    stage: int | None = None
    offload: bool | None = None
    config: Mapping[str, Any] | None = None
    overlap_comm: bool | None = None
    contiguous_gradients: bool | None = None
    reduce_scatter: bool | None = None
    round_robin_gradients: bool | None = None
    reduce_bucket_size: int | None = None
    allgather_bucket_size: int | None = None
    stage3_max_live_parameters: int | None = None
    stage3_max_reuse_distance: int | None = None
    stage3_param_persistence_threshold: int | None = None
    stage3_prefetch_bucket_size: int | None = None

    def __post_init__(self) -> None:
        if self.stage not in (None, 0, 1, 2, 3):
            raise ValueError(f"stage must be 0, 1, 2 or 3, not {self.stage!r}")

    @property
    def resolved_stage(self) -> int:
        """The stage asked for, the JSON's, or 2."""
        return resolved_stage(self.stage, self.config)

    @property
    def casting(self) -> Casting:  # type: ignore[override]  # here it depends on the stage
        return "engine-cast" if self.resolved_stage else "autocast"

    @property
    def default_grad_sync(self) -> GradSync:  # type: ignore[override]  # here it depends on the stage
        return "every_micro_batch" if self.resolved_stage > 1 else "last"

    def plan(self, config: TrainConfig, world_size: int) -> Plan:
        """What the engine is asked to be in this run."""
        zero = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in NOT_ZERO_OPTIONS and getattr(self, field.name) is not None
        }
        return Plan(
            config=config,
            world_size=world_size,
            stage=self.resolved_stage,
            offload=resolved_offload(self.offload, self.stage, self.config),
            zero=zero,
            user=self.config,
        )

    def unsupported_reason(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        if importlib.util.find_spec("deepspeed") is None:
            return "deepspeed is not installed: pip install deepspeed"
        contradictions = self.contradictions(config, world_size)
        if contradictions:
            return " ".join(contradictions)
        plan = self.plan(config, world_size)
        return _unsupported_offload(plan) or _unsupported_sync(plan) or _unsupported_precision(plan, device_type)

    def contradictions(self, config: TrainConfig, world_size: int) -> list[str]:
        """One sentence for each thing in the user's JSON that contradicts the run; empty without a JSON."""
        if self.config is None:
            return []
        return check_user_config(self.config, config, world_size, stage=self.stage, offload=self.offload)

    def unmatched(self, config: TrainConfig, device_type: str, world_size: int) -> tuple[str, ...]:
        if config.profile != "matched":
            return ()
        return unmatched_sentences(self.plan(config, world_size))

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        deepspeed = compat.load_deepspeed(device)
        compat.join_process_group(deepspeed, device, config.timeout_seconds)
        plan = self.plan(config, dist.get_world_size())
        json = build(plan)
        module = build_on_meta(workload, config)
        if plan.stage == 3:
            partition_(deepspeed, module, workload, plan, json, device)
        else:
            materialise_(module, workload, config, device)
        groups = parameter_groups(module.named_parameters(), workload.no_decay_names(module), config.optimizer)
        optimizer = build_optimizer(groups, config.optimizer)
        engine = deepspeed.initialize(model=module, optimizer=optimizer, config=json)[0]
        verify(engine, optimizer, plan, json)
        restore_masters_(deepspeed, engine, workload, config, device)
        return DeepSpeedStep(deepspeed, engine, optimizer, plan)
