"""DeepSpeed's JSON for a run: what the profile and the precision ask, under what a user's own JSON says.

Needs neither deepspeed nor torch. See `deepspeed_user` for what a user's JSON may not say.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .config import TrainConfig

Json = Mapping[str, Any]

DEFAULT_STAGE = 2
BUCKET_ELEMENTS = 6_553_600
"""25 MiB of fp32, the bucket of DistributedDataParallel."""
SHORT_NAMES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}
ENGINE_SECTIONS = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16"}
"""Sections by which the engine casts the module, and to what."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an engine is asked to be.

    Attributes:
        stage: ZeRO stage, 0 to 3.
        offload: optimizer (at stage 3 parameters too) on the CPU.
        zero: further entries of the `zero_optimization` section.
        user: the user's own JSON, empty if there is none.
        block_elements: parameters of the largest repeated block, when the model is known.
    """

    config: TrainConfig
    world_size: int
    stage: int
    offload: bool
    zero: Json
    user: Json
    block_elements: int | None = None

    @functools.cached_property
    def json(self) -> dict[str, Any]:
        """What `deepspeed.initialize` is given. It has no optimizer section: the run's own optimizer goes beside it."""
        user = {key: value for key, value in self.user.items() if key != "optimizer"}
        return overlay(_base(self), user)

    @property
    def engine_dtype(self) -> str | None:
        """`bf16` or `fp16` when the engine casts the module itself, else None."""
        return next((word for name, word in ENGINE_SECTIONS.items() if enabled(self.json, name)), None)

    @property
    def autocast(self) -> str | None:
        """`bf16` or `fp16` when torch's autocast does the casting, else None."""
        return short_name(self.json["torch_autocast"]["dtype"]) if enabled(self.json, "torch_autocast") else None

    @property
    def parameter_dtype(self) -> str:
        """`fp32`, `bf16` or `fp16`: what the module's parameters are stored in."""
        word, _, true = self.config.precision.partition("-")
        return self.engine_dtype or (word if true else "fp32")

    @property
    def restores_masters(self) -> bool:
        """Whether there are fp32 masters which the engine makes from parameters that it has rounded."""
        return self.engine_dtype is not None and self.config.mixed

    @property
    def wrapper(self) -> str | None:
        """Class of DeepSpeed's optimizer around ours; None at stage 0, where it has none."""
        fp32_accumulation = short_name(section(self.json, "data_types").get("grad_accum_dtype")) == "fp32"
        if self.stage == 1 and self.engine_dtype == "bf16" and fp32_accumulation and not self.offload:
            return "BF16_Optimizer"
        return (None, "DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer_Stage3")[self.stage]

    @property
    def coalesces(self) -> bool:
        """Whether stage 2 or 3 is asked to hold gradients back until the last micro-batch."""
        return self.stage > 1 and self.config.grad_sync == "last" and self.config.accumulation > 1


def _base(plan: Plan) -> dict[str, Any]:
    config = plan.config
    base: dict[str, Any] = {
        "train_batch_size": config.micro_batch * config.accumulation * plan.world_size,
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": _clipping(config, plan.stage),
        "zero_allow_untested_optimizer": True,  # SGD is not on DeepSpeed's list
        "zero_force_ds_cpu_optimizer": False,  # its own has to be compiled
        "zero_optimization": _zero_section(plan),
    }
    if config.profile == "matched":
        base["timers"] = {"throughput": {"enabled": False}}  # it synchronises the device at every step
    if enabled(plan.user, "torch_autocast"):
        base["torch_autocast"] = {"dtype": config.precision}
    elif not any(enabled(plan.user, name) for name in ENGINE_SECTIONS):
        base |= _precision_sections(config, plan.stage)
    return base


def _clipping(config: TrainConfig, stage: int) -> float:
    """DeepSpeed's 0 means no clipping; infinity, at stage 0, means to compute the norm and to clip nothing."""
    if config.clip_norm is not None:
        return config.clip_norm
    return math.inf if config.record_grad_norm and stage == 0 else 0.0


def _zero_section(plan: Plan) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": plan.stage}
    if plan.config.profile == "matched" and plan.stage > 0:
        zero |= {
            "overlap_comm": True,
            "contiguous_gradients": True,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
        }
    if plan.config.profile == "matched" and plan.stage == 3:
        # As fully_shard on each block with resharding: all parameters sharded, and freed between forward and backward.
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
        if plan.block_elements:
            # One block ahead. Each module of a block prefetches so much: only the limit of live ones stops them.
            zero |= {"stage3_prefetch_bucket_size": plan.block_elements}
            zero |= {"stage3_max_live_parameters": 2 * plan.block_elements}
    if plan.config.compile and plan.stage == 3:
        zero["memory_efficient_linear"] = False  # Python code with a gather in it; compiled code saves no view anyway
    if plan.offload:
        home = {"device": "cpu"} | ({"pin_memory": True} if plan.config.profile == "matched" else {})
        zero |= {"offload_optimizer": home} | ({"offload_param": home} if plan.stage == 3 else {})
    return zero | dict(plan.zero)


def _precision_sections(config: TrainConfig, stage: int) -> dict[str, Any]:
    """What gives the run its precision; nothing for fp32. The engine takes 16-bit parameters at stage 0 as they come.

    At stage 0 mixed precision is torch's autocast. The wrapper that DeepSpeed's own sections bring there takes an
    optimizer step with zero gradients while it is built, and with fp16 divides by a loss scale that the loss never got.
    """
    word = config.precision.removesuffix("-true")
    if word == "fp32":
        return {}
    if stage == 0:
        autocast: dict[str, Any] = {"torch_autocast": {"enabled": True, "dtype": word}}
        return autocast if config.mixed else {"communication_data_type": word}
    if not config.mixed:
        return {word: {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True}}
    if config.profile == "backend-default":
        return {word: {"enabled": True}}
    # GradScaler's rule for fp16; for bf16 no search for overflows, which no other backend makes.
    rule = {"loss_scale_window": 2000, "hysteresis": 1} if word == "fp16" else {"check_grad_overflow": False}
    return {
        word: {"enabled": True, **rule},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
    }


def overlay(base: Json, user: Json) -> dict[str, Any]:
    """`user` over `base`, section by section; "auto" takes `base`'s value, or DeepSpeed's default where it has none."""
    merged = dict(base)
    for key, value in user.items():
        if isinstance(value, Mapping):
            below = base.get(key)
            merged[key] = overlay(below if isinstance(below, Mapping) else {}, value)
        elif value != "auto":
            merged[key] = value
    return merged


def section(json: Json, name: str) -> Json:
    """The section `name`, empty when it is missing or no object."""
    found = json.get(name)
    return found if isinstance(found, Mapping) else {}


def enabled(json: Json, name: str) -> bool:
    """Whether the section `name` is there and enabled."""
    return section(json, name).get("enabled", False) is True


def short_name(dtype: object) -> str:
    """`bf16`, `fp16` or `fp32` for any of the names DeepSpeed takes for a dtype; other words as they are."""
    text = str(dtype).removeprefix("torch.")
    return SHORT_NAMES.get(text, text)


def resolve_stage(stage: int | None, user: Json) -> int:
    """The stage asked by name or option, else the user's JSON's, else 2 (as Lightning's plain `deepspeed`)."""
    found = section(user, "zero_optimization").get("stage", DEFAULT_STAGE) if stage is None else stage
    return found if found in range(4) else DEFAULT_STAGE


def resolve_offload(offload: bool | None, stage: int | None, user: Json) -> bool:
    """Whether to offload: as asked; else, where the user's JSON may choose the stage, as it says."""
    return offloads(user) if offload is None and stage is None else bool(offload)


def offloads(user: Json) -> bool:
    """Whether the JSON puts the optimizer on another device."""
    zero = section(user, "zero_optimization")
    return section(zero, "offload_optimizer").get("device", "none") not in ("none", None, "auto")
