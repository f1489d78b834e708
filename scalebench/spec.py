"""RunSpec: one cell of a comparison, completely resolved. Torch-free; nothing "auto" is stored in it.

A spec says what to run, never where its result is or how it went. Its identity is the hash of its canonical JSON, so
that two specs that differ in anything at all are two cells.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scalebench.recipe import Training
from scalebench.remembered import remembered
from scalebench.strategies.config import GradSync, OptimizerConfig, Precision, Profile, TrainConfig

Scalar = bool | int | float | str | None
DeviceType = Literal["cpu", "cuda"]
Scaling = Literal["weak", "strong"]
Sought = Literal["micro_batch", "size"]


class RunSpec(BaseModel):
    """One cell: a workload under a strategy on a number of ranks. Frozen; every field is a resolved value.

    Attributes:
        workload, size, workload_options: the model; options are those of `--set workload.NAME=VALUE`, resolved.
        workload_sha256: of the file of a user's own model, so that a changed file is another cell; None for others.
        data: what it is trained on, as scalebench.data names it: `synthetic`, `text:PATH`, ...
        init_from, init_from_sha256: the checkpoint that start values come from, PATH or PATH@PREFIX, and its contents'
            hash; None: from the seed.
        num_workers: processes per rank that load data ahead of time; with 0 the rank itself loads between its steps.
        strategy, strategy_options: the backend's name in `scalebench list` and the options asked by `--set strategy.*`.
        world_size: ranks: GPUs on `cuda`, processes on `cpu`.
        threads_per_rank: intra-op threads on `cpu`, the same over a whole scaling series; None on `cuda`.
        cores_per_rank: cores each rank is pinned to on `cpu`; None when not pinned (always on `cuda`).
        micro_batch, accumulation: samples per forward pass, and forward passes per step, of one rank.
        ema_decay: of a moving average of the parameters that each step updates; None: there is none.
        deterministic, detect_anomaly, cudnn_benchmark: as scalebench.strategies.config.TrainConfig has them.
        scaling: how the series this cell belongs to grows: `weak` keeps the micro-batch, `strong` the global batch.
        warmup_steps: optimizer steps before the timed window, exactly; None: until their times are steady.
        steps: timed optimizer steps, exactly; None: until the median step is known to `target_precision`.
        target_precision: half the width of the 95% interval of the median step, over the median; None with `steps`.
        max_seconds: bounds the time of the steps whose number is not exact; None when both numbers are.
        memory_limit_bytes: what a rank may allocate from its start on; None: as much as there is.
        diagnostics: whether what ran is looked at after the timed steps: contract, phases, memory, communication.
        debug: the run carried debugging variables and is not comparable with others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workload: str
    size: str
    workload_options: dict[str, Scalar] = Field(default_factory=dict)
    workload_sha256: str | None = None
    data: str
    init_from: str | None = None
    init_from_sha256: str | None = None
    num_workers: int = Field(default=0, ge=0)
    strategy: str
    strategy_options: dict[str, object] = Field(default_factory=dict)
    device: DeviceType
    world_size: int = Field(ge=1)
    threads_per_rank: int | None = Field(default=None, ge=1)
    cores_per_rank: int | None = Field(default=None, ge=1)
    precision: Precision = "fp32"
    tf32: bool = False
    profile: Profile = "matched"
    grad_sync: GradSync = "last"
    micro_batch: int = Field(ge=1)
    accumulation: int = Field(default=1, ge=1)
    scaling: Scaling = "weak"
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    clip_norm: float | None = Field(default=1.0, gt=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    activation_checkpointing: bool = False
    compile: bool = False
    deterministic: bool = False
    detect_anomaly: bool = False
    cudnn_benchmark: bool = False
    warmup_steps: int | None = Field(default=10, ge=1)
    steps: int | None = Field(default=50, ge=1)
    target_precision: float | None = Field(default=None, gt=0, lt=1)
    max_seconds: float | None = Field(default=None, gt=0)
    seed: int = 0
    memory_limit_bytes: int | None = Field(default=None, ge=1)
    diagnostics: bool = True
    debug: bool = False
    timeout_seconds: float = Field(default=600.0, gt=0)

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.steps is None) == (self.target_precision is None):
            raise ValueError("exactly one of steps and target_precision says when a run has been timed for long enough")
        if (self.max_seconds is None) != (self.steps is not None and self.warmup_steps is not None):
            raise ValueError("max_seconds is given exactly when steps or warmup_steps is not")
        return self

    @property
    def global_batch(self) -> int:
        """Samples per optimizer step over all ranks (the effective batch)."""
        return self.micro_batch * self.accumulation * self.world_size

    @property
    def cell_id(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON: this cell's identity.

        Fields at their defaults are left out, so that a field which a later version adds renames no cell. No default
        may ever change.
        """
        return _identity(self)

    @property
    def label(self) -> str:
        """Short name for people and file names, not unique: `gpt-tiny-fsdp-2xcpu-bf16`."""
        model = self.model_name.replace(" ", "-").replace("/", "_")
        return f"{model}-{self.strategy}-{self.world_size}x{self.device}-{self.precision}"

    @property
    def model_name(self) -> str:
        """What people call the model: `gpt tiny`; a user's own `/path/to/net.py:make` is `net.make`."""
        place, colon, factory = self.workload.rpartition(":")
        if not colon:
            return f"{self.workload} {self.size}"
        return f"{place.removesuffix('.py').rpartition('/')[2]}.{factory}"

    def __hash__(self) -> int:
        return hash(self.cell_id)

    def train_config(self) -> TrainConfig:
        """The part of this spec that a strategy sees."""
        return TrainConfig(
            precision=self.precision,
            tf32=self.tf32,
            micro_batch=self.micro_batch,
            accumulation=self.accumulation,
            clip_norm=self.clip_norm,
            optimizer=self.optimizer,
            ema_decay=self.ema_decay,
            profile=self.profile,
            grad_sync=self.grad_sync,
            activation_checkpointing=self.activation_checkpointing,
            compile=self.compile,
            deterministic=self.deterministic,
            detect_anomaly=self.detect_anomaly,
            cudnn_benchmark=self.cudnn_benchmark,
            seed=self.seed,
            timeout_seconds=self.timeout_seconds,
        )


@remembered
def _identity(spec: RunSpec) -> str:
    text = json.dumps(spec.model_dump(mode="json", exclude_defaults=True), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Trial(BaseModel):
    """What a short run was made for.

    Attributes:
        sought: what its search varies.
        value: the micro-batch that was tried, or the parameters of the size.
        search: cell id of the search's smallest cell, the same for all its trials.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sought: Sought
    value: int = Field(ge=1)
    search: str


class PlannedRun(BaseModel):
    """One fresh process group to start: a spec, which repeat of it, and what is wanted of it.

    Attributes:
        trial: what a run of kind `trial` is made for.
        loader_rates: measure the loader alone with several numbers of workers even where steps do not wait for it.
        training: how a run of kind `train` trains.
    """

    model_config = ConfigDict(frozen=True)

    spec: RunSpec
    repeat: int = Field(default=0, ge=0)
    kind: Literal["run", "parity", "trial", "train"] = "run"
    trial: Trial | None = None
    loader_rates: bool = False
    training: Training | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Cell id and kind: the same for runs that repeat each other."""
        return self.spec.cell_id, self.kind


class ProbeSpec(BaseModel):
    """One probe of a machine: ranks as a RunSpec places them, and how long it may take.

    Attributes:
        device, world_size, threads_per_rank, cores_per_rank, timeout_seconds: as in RunSpec.
        max_seconds: what has not begun by then is left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceType
    world_size: int = Field(ge=1)
    threads_per_rank: int | None = Field(default=None, ge=1)
    cores_per_rank: int | None = Field(default=None, ge=1)
    max_seconds: float = Field(default=30.0, gt=0)
    timeout_seconds: float = Field(default=600.0, gt=0)
