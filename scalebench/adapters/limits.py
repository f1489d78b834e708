"""What a strategy cannot do with a user's model, as far as it is known before launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scalebench import strategies
from scalebench.adapters.own import OwnWorkload
from scalebench.adapters.root import PREFIX
from scalebench.strategies.config import TrainConfig

SHOWN = 3


def reason_against(workload: OwnWorkload, name: str, options: Mapping[str, object], config: TrainConfig) -> str | None:
    """Why strategy `name` cannot train `workload`, and what to do; None when nothing is known to speak against it."""
    entry = strategies.entry(strategies.raw_name(name))  # a framework's strategy can do no more than what it wraps
    target, given = entry.target, {**entry.preset, **options}
    unused = workload.inspection.unused
    if target == "ddp:DDP" and unused and not given.get("find_unused_parameters"):
        return (
            f"the loss does not depend on {_listed(unused)}, whose gradients DDP would wait for: freeze "
            "or remove them, or use ddp_find_unused_parameters_true"
        )
    module = workload.build()
    scalars = [key for key, one in module.named_parameters() if one.dim() == 0]
    if target == "fsdp:FSDP" and scalars:
        return f"FSDP2 shards no scalars such as {_listed(scalars)}: give them the shape (1,), or use fsdp1"
    if config.activation_checkpointing and not workload.block_names(module):
        return "no repeated blocks are found to checkpoint: name them by --set workload.blocks=NAME"
    return _reason_in_16_bit(workload, name, options) if config.mixed else None


def _reason_in_16_bit(workload: OwnWorkload, name: str, options: Mapping[str, object]) -> str | None:
    casting = strategies.create(name, options).casting
    if casting not in ("sharded-cast", "engine-cast"):
        return None
    failure = workload.failure_when_cast(by_block=casting == "sharded-cast")
    return failure and (
        f"it casts parameters and inputs to 16 bit, but neither buffers (a BatchNorm's statistics, tables) nor what "
        f"forward makes itself, and there the model fails ({failure}): bring these to the dtype of the input in "
        "forward, or use fp32, bf16-true, or ddp, which autocasts"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name.removeprefix(PREFIX) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
