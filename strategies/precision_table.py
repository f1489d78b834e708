"""What each precision means in each family of strategies, as `scalebench list precisions` prints it. Torch-free.

Written down once, here; the tests hold it against what the strategies do. Under the profile `backend-default` fsdp
reduces the gradients of mixed precision in 16 bit, and DeepSpeed does as it ships.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from .config import Casting, Precision

Family = Literal["single, ddp, deepspeed_stage_0", "fsdp, fsdp1", "deepspeed_stage_1 to 3"]


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """One precision in one family of strategies, under the profile `matched`.

    Attributes:
        casting: who casts: autocast each operation, the sharded wrapper or DeepSpeed's engine the whole forward pass.
        parameters: what is stored on the rank. master: what the optimizer updates, where that is another copy.
        compute: of matrix products. reduce: of gradients between ranks. optimizer_state: of momenta.
        loss_scaling: `dynamic`, or None.
    """

    precision: Precision
    family: Family
    casting: Casting | None
    parameters: str
    master: str | None = None
    compute: str
    reduce: str
    optimizer_state: str
    loss_scaling: str | None = None
    note: str = ""


AUTOCAST: Family = "single, ddp, deepspeed_stage_0"
SHARDED: Family = "fsdp, fsdp1"
ENGINE: Family = "deepspeed_stage_1 to 3"


def _fp32(family: Family) -> Meaning:
    return Meaning(
        precision="fp32",
        family=family,
        casting=None,
        parameters="fp32",
        compute="fp32",
        reduce="fp32",
        optimizer_state="fp32",
        note="--tf32 lets matrix products on CUDA use TF32",
    )


def _mixed(precision: Literal["fp16", "bf16"]) -> tuple[Meaning, ...]:
    scaling = "dynamic" if precision == "fp16" else None
    meaning = partial(
        Meaning, precision=precision, compute=precision, reduce="fp32", optimizer_state="fp32", loss_scaling=scaling
    )
    return (
        meaning(family=AUTOCAST, casting="autocast", parameters="fp32", note="norms, softmax and loss stay in fp32"),
        meaning(
            family=SHARDED,
            casting="sharded-cast",
            parameters="fp32",
            note="shards are cast when gathered: the whole forward pass is 16-bit",
        ),
        meaning(
            family=ENGINE,
            casting="engine-cast",
            parameters=precision,
            master="fp32",
            note="the whole forward pass is 16-bit",
        ),
    )


def _true(precision: Literal["fp16-true", "bf16-true"]) -> tuple[Meaning, ...]:
    dtype = precision.removesuffix("-true")
    meanings = (
        Meaning(
            precision=precision,
            family=family,
            casting=None,
            parameters=dtype,
            compute=dtype,
            reduce=dtype,
            optimizer_state=dtype,
            loss_scaling="dynamic" if dtype == "fp16" else None,
            note="small updates may round to nothing",
        )
        for family in (AUTOCAST, SHARDED, ENGINE)
    )
    # ZeRO keeps fp32 masters with fp16, so that it cannot be fp16 throughout.
    return tuple(m for m in meanings if (m.precision, m.family) != ("fp16-true", ENGINE))


PRECISION_TABLE: tuple[Meaning, ...] = (
    *(_fp32(family) for family in (AUTOCAST, SHARDED, ENGINE)),
    *_mixed("fp16"),
    *_mixed("bf16"),
    *_true("fp16-true"),
    *_true("bf16-true"),
)
"""Every precision in every family that can run it."""

OF_FRAMEWORKS = """A strategy of a framework means what the raw one means that it wraps, but for what is refused:
`fp16-true` (they scale no loss in it), `fp16` on a CPU (Fabric would run bf16, Accelerate fp32), and `fp16` of
`lightning_*` but DeepSpeed's (Fabric clips no gradients of a fused optimizer). `lightning_fsdp` in mixed precision
turns on autocast beside the cast of the shards."""
"""What the table means for strategies that wrap another one."""
