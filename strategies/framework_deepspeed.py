"""DeepSpeed's step as a framework's users write it, and what both frameworks' DeepSpeed cannot do."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .base import Batch
from .config import TrainConfig
from .deepspeed_step import DeepSpeedStep, Prepared


class FrameworkDeepSpeedStep(DeepSpeedStep):
    """DeepSpeedStep whose micro-batches go through the framework.

    Args:
        micro_step: forward, backward and, on the last micro-batch, update; gives the mean loss, detached.
        release: undoes what the framework left in the process.
    """

    def __init__(
        self, prepared: Prepared, *, micro_step: Callable[[Batch], Tensor], release: Callable[[], None]
    ) -> None:
        super().__init__(prepared)
        self._micro_step_of_framework = micro_step
        self._release = release

    def _micro_step(self, batch: Batch) -> Tensor:
        return self._micro_step_of_framework(self._cast(batch))

    def close(self) -> None:
        super().close()
        self._release()


def refused(config: TrainConfig, framework: str) -> str | None:
    """What DeepSpeed does by itself and not under a framework, or None."""
    if config.grad_sync == "last" and config.accumulation > 1:
        return f"under {framework} stage 2 reduces gradients on every micro-batch: use grad_sync=every_micro_batch"
    return None
