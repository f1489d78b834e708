"""DeepSpeed: its engine at ZeRO stages 0 to 3, with offload, or as a user's own JSON says.

The engine owns its backward, reduction, clipping and update. The optimizer is torch's fused one in both profiles:
DeepSpeed's own are compiled on first use, which this project never does.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn

from . import compat
from .base import Strategy, TrainStep, Workload
from .config import Casting, GradSync, TrainConfig
from .construct import build_on_meta, build_optimizer, parameter_groups, prepare_process
from .deepspeed_build import fill_, largest_block, restore_masters_, verify
from .deepspeed_config import Plan, enabled, resolve_offload, resolve_stage
from .deepspeed_step import DeepSpeedStep, Prepared
from .deepspeed_unmatched import unmatched
from .deepspeed_user import check_user_config
from .loss_scaling import LossScaler
from .packages import unusable

MINIMUM_VERSION = (0, 19, 8)
"""Before it stage 1 sums micro-batches wrongly in an accumulation dtype of its own (fp16 strays from plain PyTorch)."""


@dataclass(frozen=True, kw_only=True)
class DeepSpeed(Strategy):
    """`deepspeed.initialize` with a ZeRO stage.

    Attributes:
        stage: 0 (no sharding), 1 (optimizer state), 2 (and gradients), 3 (and parameters); None: the JSON's, else 2.
        offload: optimizer state (at stage 3 parameters too) on the CPU; None: as the JSON says, else no.
        config: a user's own DeepSpeed JSON, laid over ours.
        allow_unknown_keys: pass on keys of it that no tested DeepSpeed knows.

    The others are entries of DeepSpeed's `zero_optimization` section under its own names; None leaves them to the
    profile. Sizes are in elements.
    """

    name: ClassVar[str] = "deepspeed"
    needs: ClassVar[str | None] = "deepspeed"
    resizes: ClassVar[bool] = False

    stage: int | None = None
    offload: bool | None = None
    config: Mapping[str, Any] | None = None
    allow_unknown_keys: bool = False
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

    @property
    def casting(self) -> Casting:  # type: ignore[override]  # here it depends on the stage
        autocast = not self._stage or enabled(self.config or {}, "torch_autocast")
        return "autocast" if autocast else "engine-cast"

    @property
    def default_grad_sync(self) -> GradSync:  # type: ignore[override]  # here it depends on the stage
        return "every_micro_batch" if self._stage > 1 else "last"

    @property
    def offloads(self) -> bool:
        return resolve_offload(self.offload, self.stage, self.config or {})

    @property
    def _stage(self) -> int:
        return resolve_stage(self.stage, self.config or {})

    def plan(self, config: TrainConfig, world_size: int, block_elements: int | None = None) -> Plan:
        """What the engine is asked to be in this run; `block_elements` as Plan has it."""
        zero = {name: value for name, value in self.options().items() if value is not None}
        for name in ("stage", "offload", "config", "allow_unknown_keys"):
            zero.pop(name, None)
        return Plan(
            config=config,
            world_size=world_size,
            stage=self._stage,
            offload=self.offloads,
            zero=zero,
            user=self.config or {},
            block_elements=block_elements,
        )

    def contradictions(self, config: TrainConfig, world_size: int) -> list[str]:
        return check_user_config(
            self.config or {},
            config,
            world_size,
            stage=self.stage,
            offload=self.offload,
            allow_unknown_keys=self.allow_unknown_keys,
        )

    def unsupported_reason(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        missing = unusable("deepspeed", MINIMUM_VERSION)
        if missing:
            return missing
        if self.stage is not None and self.stage not in range(4):
            return f"stage is one of 0, 1, 2 and 3, not {self.stage!r}"
        plan = self.plan(config, world_size)
        reasons = (
            " ".join(self.contradictions(config, world_size)),
            _unsupported_sync(plan),
            _unsupported_offload(plan),
            _unsupported_precision(plan, device_type),
        )
        return next(filter(None, reasons), None)

    def unmatched(self, config: TrainConfig, device_type: str, world_size: int) -> tuple[str, ...]:
        return unmatched(self.plan(config, world_size)) if config.profile == "matched" else ()

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TrainStep:
        return DeepSpeedStep(prepare_engine(self, workload, config, device, _initialize))


def _initialize(deepspeed: Any, module: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan) -> Any:
    return deepspeed.initialize(model=module, optimizer=optimizer, config=plan.json)[0]


def prepare_engine(
    strategy: DeepSpeed,
    workload: Workload,
    config: TrainConfig,
    device: torch.device,
    initialize: Callable[[Any, nn.Module, torch.optim.Optimizer, Plan], Any],
) -> Prepared:
    """Build, materialise and initialise; `initialize` makes the engine of the package deepspeed, a module, its
    optimizer and what is asked of it. Raises RuntimeError when that is not what was asked."""
    deepspeed = compat.load_deepspeed(device)
    compat.join_process_group(deepspeed, device, config.timeout_seconds)
    module = build_on_meta(workload, config)
    plan = strategy.plan(config, dist.get_world_size(), largest_block(module, workload))
    fill_(deepspeed, module, workload, plan, device)
    groups = parameter_groups(module.named_parameters(), workload.no_decay_names(module), config.optimizer)
    optimizer = build_optimizer(groups, config.optimizer)
    leaves = compat.leaves_gather_only() if config.compile else contextlib.nullcontext()
    # It prints what it builds; standard output is for results.
    with contextlib.redirect_stdout(sys.stderr), leaves:
        engine = initialize(deepspeed, module, optimizer, plan)
    verify(engine, optimizer, plan)
    if plan.restores_masters:
        restore_masters_(deepspeed, module, workload, config, device)
    prepare_process(config)
    scaler = None if plan.stage else _take_over_stage_0(engine, config, device)
    return Prepared(deepspeed=deepspeed, engine=engine, optimizer=optimizer, plan=plan, scaler=scaler)


def _take_over_stage_0(engine: Any, config: TrainConfig, device: torch.device) -> LossScaler | None:
    """Without ZeRO the engine throws its gradient norm away and counts no skipped step: both are put right here."""
    compat.keep_clipping_norm(engine)
    scaler = LossScaler(config, device)
    if not scaler.is_enabled():
        return None
    compat.scale_losses(engine, scaler)
    return scaler


def _unsupported_sync(plan: Plan) -> str | None:
    config = plan.config
    if plan.stage < 2 and config.grad_sync == "every_micro_batch" and config.accumulation > 1:
        return f"DeepSpeed at stage {plan.stage} reduces gradients once per step: use grad_sync=last"
    return None


def _unsupported_offload(plan: Plan) -> str | None:
    if plan.offload and plan.stage == 0:
        return "DeepSpeed offloads what ZeRO shards, and stage 0 shards nothing: use stage 1, 2 or 3"
    return None


def _unsupported_precision(plan: Plan, device_type: str) -> str | None:
    config = plan.config
    if config.precision == "fp16-true" and plan.stage > 0:
        return "ZeRO keeps fp32 masters with fp16 unless DeepSpeedCPUAdam is compiled: use fp16, or stage 0"
    if config.precision == "bf16-true" and plan.offload:
        return "offloading bf16 masters needs DeepSpeedCPUAdam, which would have to be compiled: use bf16"
    if plan.engine_dtype == "fp16" and device_type == "cpu" and not compat.cpu_computes_fp16():
        return "DeepSpeed takes no fp16 on this CPU (oneDNN does not support it): use bf16, or stage 0"
    return None
