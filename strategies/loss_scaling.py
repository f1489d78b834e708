"""Dynamic loss scaling for fp16 (Micikevicius et al., arXiv:1710.03740), the same in every torch backend."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .config import TrainConfig


class LossScaler(torch.amp.GradScaler):
    """torch's GradScaler, which also takes 16-bit gradients, agrees on overflow between ranks and counts dropped steps.

    The scale starts at 2^16, halves at an overflow and doubles after 2000 clean steps, as torch and DeepSpeed ship it.
    Disabled (every method passes through) unless the precision computes in fp16.

    Args:
        device: where the gradients are, and so the scale: torch would put it where the loss is, and copy it to
            gradients on the CPU without waiting, so that it could be read there before it has come.
        agree: ranks hold different gradients in plain tensors, so that they must be asked whether any saw an overflow
            (FSDP1). Replicated gradients agree by themselves, and DTensors reduce the flag in their own operator.
    """

    def __init__(self, config: TrainConfig, device: torch.device, *, agree: bool = False) -> None:
        super().__init__(device.type, enabled=config.precision in ("fp16", "fp16-true"))
        self._agree = agree
        self._skipped = torch.zeros((), device=device)
        self._overflowed = torch.zeros((), device=device)
        if self.is_enabled():
            self._lazy_init_scale_growth_tracker(device)  # torch would do so where the first loss is

    def skipped_steps(self) -> int:
        """Steps dropped so far. Synchronises with the device."""
        return int(self._skipped.item())

    def applied(self) -> Tensor | None:
        """1 when the last step was taken, 0 when it was dropped (a scalar on the device); None without loss scaling."""
        return 1.0 - self._overflowed if self.is_enabled() else None

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        found = super()._unscale_grads_(optimizer, inv_scale, found_inf, True) or {found_inf.device: found_inf}
        for flag in found.values():
            if self._agree:
                dist.all_reduce(flag, dist.ReduceOp.MAX)
            self._overflowed = flag.to(self._skipped.device)
            self._skipped += self._overflowed
        return found
