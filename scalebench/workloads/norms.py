"""Norms of convolutional networks: by groups of channels, by micro-batch, or by the micro-batches of all ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F  # noqa: N812

from scalebench.errors import UserError


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation over this rank's micro-batch (Ioffe and Szegedy 2015, arXiv:1502.03167).

    It trains the same under every strategy, since micro-batches are the same. Its running statistics are buffers that
    each rank makes of what it saw itself (DDP sends rank 0's to the others), so that evaluations differ between
    backends. They stay in the dtype they were made in, and gain and bias follow them: kernels refuse a mixture.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum: float

    def forward(self, values: Tensor) -> Tensor:
        if self.training and values.numel() == values.size(1):
            raise UserError(
                "workload.norm=batch needs more than one value per channel, and the pooled image of a micro-batch of 1 "
                "is one. Give --micro-batch 2 or more, or --set workload.norm=group."
            )
        mean, variance = self.running_mean, self.running_var
        weight, bias = self.weight.to(mean.dtype), self.bias.to(mean.dtype)
        return F.batch_norm(values, mean, variance, weight, bias, self.training, self.momentum, self.eps)


class SyncBatchNorm(BatchNorm):
    """Batch normalisation over the micro-batches of all ranks, on any device (torch's own refuses a CPU).

    One all-reduce of two values per channel in the forward pass and one in the backward pass. What it trains depends on
    which micro-batches the ranks hold at once, so that no process alone trains the same on micro-batches: parity checks
    `batch` in its place.
    """

    def forward(self, values: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(values)
        exact = values.float()
        count = dist.get_world_size() * exact.numel() // exact.size(1)  # every rank's micro-batch is as large
        sums: Tensor = all_reduce(torch.stack([exact.sum((0, 2, 3)), exact.square().sum((0, 2, 3))]))  # type: ignore[no-untyped-call]
        mean, variance = sums[0] / count, sums[1] / count - (sums[0] / count).square()
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight.float() * torch.rsqrt(variance + self.eps)
        shift = self.bias.float() - mean * scale
        return (exact * scale[:, None, None] + shift[:, None, None]).to(values.dtype)

    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards these."""
        for kept, new in ((self.running_mean, mean), (self.running_var, variance)):
            kept.lerp_(new.to(kept.dtype), self.momentum)


def norm(kind: str, channels: int, groups: int) -> nn.Module:
    """The norm `kind` of so many channels; `group` is that of Wu and He 2018 (arXiv:1803.08494)."""
    if kind == "group":
        return nn.GroupNorm(groups, channels)
    return SyncBatchNorm(channels) if kind == "sync_batch" else BatchNorm(channels)


def vector_names(module: nn.Module) -> set[str]:
    """The parameters that are vectors: biases, and the gains of norms."""
    norms = {name for name, child in module.named_modules() if isinstance(child, nn.GroupNorm | nn.BatchNorm2d)}
    gains = {f"{name}.weight" for name in norms}
    return {name for name, _ in module.named_parameters() if name.endswith("bias") or name in gains}
