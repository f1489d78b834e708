"""How a step is spread over ranks, in the terms that bytes and memory depend on: a strategy with its options resolved.

Sizes are elements of parameters unless they say bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Backend = Literal["gloo", "nccl"]


@dataclass(frozen=True, kw_only=True)
class ElementBytes:
    """Bytes of one element of each thing.

    Attributes:
        parameter: of the parameters as the module stores them.
        compute: of the operands of matrix products, which is how sharded parameters are gathered.
        reduce: of gradients on their way between ranks.
        gradient: of gradients as the update reads them.
        state: of the optimizer's moments.
        master: of the second copy of the parameters that the optimizer updates; 0 when it updates the module's own.
    """

    parameter: int = 4
    compute: int = 4
    reduce: int = 4
    gradient: int = 4
    state: int = 4
    master: int = 0


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """DistributedDataParallel, or no wrapper at all on one rank (`wrapped` False).

    Attributes:
        bucket_bytes, first_bucket_bytes: a bucket is closed by the gradient that reaches its size.
        bucket_view: gradients are views into the buckets, so that there is no second copy of them.
        low_rank: matrices are sent as their PowerSGD factors of this rank; 0: whole.
    """

    family: Literal["replicated"] = "replicated"
    wrapped: bool = True
    bucket_bytes: int = 25 * 2**20
    first_bucket_bytes: int = 25 * 2**20
    bucket_view: bool = False
    low_rank: int = 0


@dataclass(frozen=True, kw_only=True)
class FullySharded:
    """FSDP2: every parameter cut along dimension 0 over `shard_ranks`; groups of so many hold replicas of each other.

    Attributes:
        reshard_ranks: after its forward pass a block is kept cut over so many ranks: `shard_ranks` for none gathered,
            1 for wholly gathered.
        prefetch: blocks gathered ahead by explicit order.
    """

    family: Literal["fully-sharded"] = "fully-sharded"
    shard_ranks: int
    reshard_ranks: int
    prefetch: int = 0
    offload: bool = False


@dataclass(frozen=True, kw_only=True)
class FlatSharded:
    """FSDP1: each block, and the rest, is one flat vector, padded and cut evenly over all ranks."""

    family: Literal["flat-sharded"] = "flat-sharded"
    reshard_after_forward: bool = True


@dataclass(frozen=True, kw_only=True)
class Zero:
    """DeepSpeed's engine; the attributes are entries of its `zero_optimization` section, with its defaults.

    Attributes:
        stage: 0 (nothing sharded) to 3 (optimizer state, gradients and parameters).
        after_backward: gradients are reduced after the last backward pass in buckets of 500 million elements: stage 0,
            and stage 1 in bf16 with fp32 accumulation (`BF16_Optimizer`).
    """

    family: Literal["zero"] = "zero"
    stage: Literal[0, 1, 2, 3]
    after_backward: bool = False
    offload: bool = False
    overlap_comm: bool = False
    contiguous_gradients: bool = True
    reduce_scatter: bool = True
    reduce_bucket_size: int = 500_000_000
    prefetch_bucket_size: int = 50_000_000
    max_live_parameters: int = 1_000_000_000
    max_reuse_distance: int = 1_000_000_000
    param_persistence_threshold: int = 100_000


Sharding = Replicated | FullySharded | FlatSharded | Zero


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One way of running a step.

    Attributes:
        ranks: ranks of the job.
        backend: what carries the collectives.
        accumulation: micro-batches per rank and step.
        reductions: how many of them end with gradients crossing ranks.
        moments: tensors of optimizer state per parameter (AdamW 2, SGD 0, with momentum 1).
        average: bytes of a moving average of each element that the optimizer updates; 0: none is kept.
        checkpointing: each block's forward pass is run again in the backward pass.
        sharding: what is on which rank.
    """

    ranks: int
    backend: Backend
    accumulation: int = 1
    reductions: int = 1
    moments: int = 2
    average: int = 0
    checkpointing: bool = False
    bytes: ElementBytes = field(default_factory=ElementBytes)
    sharding: Sharding
