"""A training script as one writes it by hand for torchrun: what scalebench's cost and start-up are measured against.

    torchrun --standalone --nproc-per-node 2 tests/benchmarks/bare.py --strategy fsdp --steps 200

Only the model class and the tokens are scalebench's. Wrapping, batches, clipping, loop and clock are written out here,
as plain as may be, and do the same work: one precision with fp32 master parameters, fused AdamW with two parameter
groups, clipping at norm 1, one micro-batch per step, the same buckets, pinned cores, one thread, no automatic garbage
collection. So losses agree, as is checked. Prints one line of JSON: of each rank the start and the end of every step
(CLOCK_MONOTONIC, ns) and the losses.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scalebench import workloads
from scalebench.data.sampler import epoch_permutation

CLIP_NORM = 1.0
BUCKET_MIB = 25
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    args = parse_arguments()
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    pin(int(os.environ["LOCAL_RANK"]))
    if args.strategy != "single":
        dist.init_process_group("gloo")
    train = prepare(args.strategy, args.size, args.seed, args.precision)
    batches = make_batches(args.size, args.micro_batch, args.seed, rank, world_size)
    gc.collect()
    gc.disable()
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1))
    start = time.monotonic_ns()
    losses, ends = loop(train, batches, args.steps)
    report(rank, world_size, {"start_ns": start, "step_end_ns": ends, "losses": torch.stack(losses).tolist()})
    # DeepSpeed's groups outlive destroy_process_group, and their threads may abort a process that ends as usual.
    os._exit(0)


def loop(train: Any, batches: Iterator[dict[str, Tensor]], steps: int) -> tuple[list[Tensor], list[int]]:
    """Loss and end of every step."""
    losses, ends = [], []
    for _ in range(steps):
        losses.append(train(next(batches)))
        ends.append(time.monotonic_ns())
    return losses, ends


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def pin(local_rank: int) -> None:
    """One core and one thread for each rank."""
    cores = sorted(os.sched_getaffinity(0))
    if local_rank < len(cores):
        os.sched_setaffinity(0, {cores[local_rank]})
    torch.set_num_threads(1)


def report(rank: int, world_size: int, found: Mapping[str, Any]) -> None:
    """Rank 0 prints what all ranks found, on one line."""
    everything: list[Any] = [found] * world_size
    if dist.is_initialized():
        dist.gather_object(found, everything if rank == 0 else None)
    if rank == 0:
        print(json.dumps(everything), flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


def make_batches(size: str, micro_batch: int, seed: int, rank: int, world_size: int) -> Iterator[dict[str, Tensor]]:
    """This rank's batches of the first epoch's permutation, over and over."""
    rows = workloads.create("gpt", size).samples("synthetic", seed).rows
    order = epoch_permutation(len(rows), seed, 0)
    while True:
        for start in range(rank * micro_batch, len(rows) - world_size * micro_batch + 1, world_size * micro_batch):
            chosen = rows[order[start : start + micro_batch]]
            yield {"tokens": chosen[:, :-1].long(), "targets": chosen[:, 1:].long()}


def prepare(strategy: str, size: str, seed: int, precision: str = "fp32") -> Any:
    """A function that trains on one batch and returns its loss."""
    workload = workloads.create("gpt", size)
    model = workload.build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            workload.init_parameter_(name, parameter, torch.Generator().manual_seed(seed_of(f"{seed}:{name}")))
    if strategy.startswith("deepspeed_stage_"):
        return deepspeed_step(model, int(strategy[-1]), precision)
    wrapped = wrap(model, strategy, DTYPES[precision])
    cast = torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32" and strategy != "fsdp")
    return torch_step(wrapped, cast, torch.amp.GradScaler("cpu", enabled=precision == "fp16"))


def seed_of(text: str) -> int:
    """Any seed would do, but with this one the start values are those of scalebench, and so are the losses."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def wrap(model: nn.Module, strategy: str, dtype: torch.dtype) -> nn.Module:
    if strategy == "ddp":
        return nn.parallel.DistributedDataParallel(model, bucket_cap_mb=BUCKET_MIB)
    if strategy == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with the weights decayed and the biases and norm gains not."""
    vectors = ("bias", "norm.weight")
    groups = [
        {"params": [p for n, p in model.named_parameters() if not n.endswith(vectors)], "weight_decay": 0.1},
        {"params": [p for n, p in model.named_parameters() if n.endswith(vectors)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)


def torch_step(model: nn.Module, cast: torch.autocast, scaler: torch.amp.GradScaler) -> Any:
    optimizer = make_optimizer(model)

    def train(batch: dict[str, Tensor]) -> Tensor:
        optimizer.zero_grad()
        with cast:
            loss = model(batch).float()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return train


def deepspeed_step(model: nn.Module, stage: int, precision: str) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # Or DeepSpeed would compile a shared-memory operator on first use, for over a minute.
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    config = deepspeed_config(stage) | ({} if precision == "fp32" else DEEPSPEED_MIXED[precision])
    engine = deepspeed.initialize(model=model, optimizer=make_optimizer(model), config=config)[0]

    def train(batch: dict[str, Tensor]) -> Tensor:
        loss = engine(batch)
        engine.backward(loss)
        engine.step()
        return loss.detach()

    return train


DEEPSPEED_MIXED: dict[str, dict[str, Any]] = {
    "bf16": {
        "bf16": {"enabled": True, "check_grad_overflow": False},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
    }
}


def deepspeed_config(stage: int) -> dict[str, Any]:
    """`matched` as scalebench means it, but for the prefetching of stage 3, which bears on no start-up."""
    bucket = BUCKET_MIB * 2**20 // 4
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if stage == 3:
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
    return {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_clipping": CLIP_NORM,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": zero,
        "timers": {"throughput": {"enabled": False}},
    }


if __name__ == "__main__":
    main()
