"""DistributedDataParallel: replicated parameters, gradients all-reduced in buckets while the backward pass goes on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from .base import Strategy, Workload
from .config import TrainConfig
from .construct import build_on_meta, build_optimizer, materialise_, parameter_groups, prepare_process
from .loss_scaling import LossScaler
from .torch_step import SyncContext, TorchStep, clip_by_global_norm

Compression = Literal["none", "fp16", "bf16", "powersgd"]
MATCHED_BUCKET_MIB = 25.0


@dataclass(frozen=True, kw_only=True)
class DDP(Strategy):
    """torch.nn.parallel.DistributedDataParallel.

    Options:
        find_unused_parameters: look, after each forward pass, for parameters that took no part in it.
        static_graph: promise that the graph never changes.
        bucket_cap_mb: bucket size in MiB; by default 25 throughout, or as torch ships it (25, the first one 1) under
            the profile `backend-default`.
        gradient_as_bucket_view: let gradients be views into the buckets, which saves a copy of them.
        gradient_compression: `fp16` or `bf16` halve an fp32 gradient on the wire; `powersgd` sends low-rank factors
            (Vogels et al., arXiv:1905.13727; rank 1, from the third step on). All change the training.
    """

    name: ClassVar[str] = "ddp"
    evaluates_alone: ClassVar[bool] = True

    find_unused_parameters: bool = False
    static_graph: bool = False
    bucket_cap_mb: float | None = None
    gradient_as_bucket_view: bool = False
    gradient_compression: Compression = "none"

    def unsupported_reason(self, config: TrainConfig, device_type: str, world_size: int) -> str | None:
        allowed = get_args(Compression)
        if self.gradient_compression not in allowed:
            return f"gradient_compression is one of {', '.join(allowed)}, not {self.gradient_compression!r}"
        if self.gradient_compression == "bf16" and device_type == "cpu":
            return "gradient_compression=bf16 needs NCCL, so a GPU; on a CPU use gradient_compression=fp16"
        if self.bucket_cap_mb is not None and self.bucket_cap_mb <= 0:
            return f"bucket_cap_mb is a size in MiB above 0, not {self.bucket_cap_mb}"
        return None

    def unmatched(self, config: TrainConfig, device_type: str, world_size: int) -> tuple[str, ...]:
        if config.profile != "matched":
            return ()
        reasons = []
        if self.bucket_cap_mb not in (None, MATCHED_BUCKET_MIB):
            reasons.append(f"gradients are reduced in buckets of {self.bucket_cap_mb:g} MiB, as asked, not 25")
        if self.gradient_compression != "none":
            reasons.append(f"gradients are compressed on the wire ({self.gradient_compression}), as asked")
        return tuple(reasons)

    def prepare(self, workload: Workload, config: TrainConfig, device: torch.device) -> TorchStep:
        inner = build_on_meta(workload, config)
        materialise_(inner, workload, config, device)
        module = self._wrap(inner, config)
        groups = parameter_groups(inner.named_parameters(), workload.no_decay_names(inner), config.optimizer)
        prepare_process(config)
        return TorchStep(
            module=module,
            optimizer=build_optimizer(groups, config.optimizer),
            config=config,
            device=device,
            whole_parameters=inner.named_parameters,
            clip=clip_by_global_norm(list(inner.parameters())),
            scaler=LossScaler(config, device),
            sync=_sync(module),
        )

    def _wrap(self, inner: nn.Module, config: TrainConfig) -> DistributedDataParallel:
        keep_graphs_whole()
        matched = MATCHED_BUCKET_MIB if config.profile == "matched" else None
        module = DistributedDataParallel(
            inner,
            find_unused_parameters=self.find_unused_parameters,
            static_graph=self.static_graph,
            bucket_cap_mb=matched if self.bucket_cap_mb is None else self.bucket_cap_mb,
            gradient_as_bucket_view=self.gradient_as_bucket_view,
        )
        self._compress(module)
        return module

    def _compress(self, module: DistributedDataParallel) -> None:
        if self.gradient_compression == "fp16":
            module.register_comm_hook(None, default_hooks.fp16_compress_hook)
        elif self.gradient_compression == "bf16":
            module.register_comm_hook(None, default_hooks.bf16_compress_hook)
        elif self.gradient_compression == "powersgd":
            # The earliest step that warm start allows: torch's own default would compress nothing in a short run.
            state = powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=2)
            module.register_comm_hook(state, powerSGD_hook.powerSGD_hook)


def keep_graphs_whole() -> None:
    """Regions are compiled one by one, so there is no whole graph to split at bucket boundaries, and the splitter
    refuses checkpointed regions."""
    torch._dynamo.config.optimize_ddp = False


def _sync(module: DistributedDataParallel) -> SyncContext:
    # A static graph is recorded in the very first backward pass, which must reduce: no_sync there is an internal error.
    recorded = not module.static_graph

    def sync(crosses_ranks: bool, last: bool) -> AbstractContextManager[object]:
        nonlocal recorded
        reduce = crosses_ranks or not recorded
        recorded = True
        return nullcontext() if reduce else module.no_sync()

    return sync
