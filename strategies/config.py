"""What one training step must do, said once for every backend. Torch-free, so that it can be built and checked
anywhere.

`TrainConfig` is the whole agreement between the harness and a strategy: whatever a strategy needs to know about the
run beyond the model is here, and nothing that only one backend understands (that is an option of the strategy).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "bf16", "fp16-true", "bf16-true"]
Profile = Literal["matched", "backend-default"]
GradSync = Literal["every_micro_batch", "last"]
OptimizerName = Literal["adamw", "sgd"]
Casting = Literal["autocast", "sharded-cast", "engine-cast"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

PRECISION_ALIASES: dict[str, Precision] = {
    "32": "fp32",
    "32-true": "fp32",
    "16": "fp16",
    "16-mixed": "fp16",
    "bf16-mixed": "bf16",
    "16-true": "fp16-true",
}
"""Lightning's words for a precision, and the bare numbers, to ours."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The one optimizer all strategies build. AdamW as in Loshchilov and Hutter (arXiv:1711.05101); SGD with
    momentum."""

    name: OptimizerName = "adamw"
    learning_rate: float = 3e-4
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything about the training step that is the same for every backend.

    Attributes:
        precision: `fp32`; `fp16`/`bf16` mixed (fp32 master parameters); `fp16-true`/`bf16-true` (everything 16-bit).
        tf32: on CUDA, fp32 matrix products may use TF32; only meaningful with `fp32`.
        micro_batch: samples per rank and forward pass.
        accumulation: micro-batches per optimizer step and rank.
        clip_norm: global gradient norm above which gradients are scaled down; None leaves them alone.
        ema_decay: of a moving average of the parameters, kept beside them; None: none is kept.
        profile: `matched` makes backends as alike as they allow, `backend-default` leaves each as its makers ship it.
        grad_sync: on which micro-batches gradients are reduced between ranks.
        activation_checkpointing: recompute each block's forward in the backward pass.
        compile: `torch.compile` each of the workload's compiled regions, in place.
        deterministic: operations without a deterministic implementation are refused; cuDNN and cuBLAS use theirs.
        detect_anomaly: torch's autograd checks each gradient for nan, and names the operation that made one.
        cudnn_benchmark: cuDNN tries its algorithms for each new shape of a convolution, and keeps the fastest.
        seed: parameters are initialised from it alone; dropout from it and the rank.
        record_grad_norm: compute the global gradient norm even when nothing is clipped (parity runs).
        timeout_seconds: longest wait in one collective before the backend gives up.
    """

    precision: Precision = "fp32"
    tf32: bool = False
    micro_batch: int = 1
    accumulation: int = 1
    clip_norm: float | None = 1.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema_decay: float | None = None
    profile: Profile = "matched"
    grad_sync: GradSync = "last"
    activation_checkpointing: bool = False
    compile: bool = False
    deterministic: bool = False
    detect_anomaly: bool = False
    cudnn_benchmark: bool = False
    seed: int = 0
    record_grad_norm: bool = False
    timeout_seconds: float = 600.0

    @property
    def mixed(self) -> bool:
        """Whether 16-bit compute goes with fp32 master parameters."""
        return self.precision in ("fp16", "bf16")
