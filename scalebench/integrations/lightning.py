"""Lightning's Trainer, measured by a callback: for `lightning` and `pytorch_lightning` alike."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from scalebench.errors import UserError
from scalebench.integrations.recorder import Recorder

NAMED = "lightning_trainer"
PRECISIONS = {
    "32-true": "fp32", "32": "fp32", "16-mixed": "fp16", "bf16-mixed": "bf16", "16-true": "fp16-true",
    "bf16-true": "bf16-true",
}  # fmt: skip
"""Lightning's words to ours."""


def lightning_callback(*, stop: bool = False, package: str | None = None, **given: Any) -> Any:
    """A Callback that records the training of a Trainer as a run.

    Args:
        stop: end the training when enough was measured.
        package: `lightning` or `pytorch_lightning`, whose classes differ; by default the one that is imported.
        given: arguments of Recorder, which go before what the Trainer says (micro-batch, accumulation, precision).

    Raises UserError when neither package is imported.
    """
    base: Any = importlib.import_module(_module(package)).Callback

    class RecorderCallback(base):  # type: ignore[misc]
        """Times the steps of a Trainer by a scalebench.Recorder."""

        def __init__(self) -> None:
            super().__init__()
            self._recorder: Recorder | None = None
            self._steps = 0
            self._loss: Any = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            settings = {"named": NAMED, **said_by(trainer), **given}
            self._steps = trainer.global_step
            self._recorder = Recorder(pl_module, trainer.optimizers[0] if trainer.optimizers else None, **settings)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """A step ends with the batch that makes the optimizer step; a loss is a micro-batch's share of its step."""
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            if loss is not None:
                self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
            if self._recorder is None or trainer.global_step == self._steps:
                return
            self._steps = trainer.global_step
            self._recorder.step(self._loss)
            self._loss = None
            if stop and self._recorder.done:
                trainer.should_stop = True

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if self._recorder is not None:
                self._recorder.close()

    return RecorderCallback()


def said_by(trainer: Any) -> dict[str, Any]:
    """What a Trainer says of its run, as fields of a spec."""
    loader = getattr(trainer, "train_dataloader", None)
    said = {
        "micro_batch": getattr(loader, "batch_size", None),
        "accumulation": trainer.accumulate_grad_batches,
        "precision": PRECISIONS.get(str(trainer.precision)),
        "clip_norm": trainer.gradient_clip_val or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _module(package: str | None) -> str:
    imported = [name for name in ("lightning", "pytorch_lightning") if name in sys.modules]
    chosen = package or next(iter(imported), None)
    if chosen not in ("lightning", "pytorch_lightning"):
        raise UserError("neither lightning nor pytorch_lightning is imported. Import the one whose Trainer you use.")
    return "lightning.pytorch" if chosen == "lightning" else chosen
