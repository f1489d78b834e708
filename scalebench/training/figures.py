"""What trackers are told of a training's steps, validations and checkpoints, by the names that they show."""

from __future__ import annotations

import torch

from scalebench.harness.loop import Timeline
from scalebench.meters.memory import resident_bytes
from scalebench.records.training import Evaluation, Save, Test


def figures_of_steps(
    ran: Timeline, *, loss: float, rate: float, learning_rate: float, epoch: float
) -> dict[str, float]:
    """Of the steps since the last look: `loss` is their mean over the ranks, `rate` items per second of all ranks; the
    gradient norm is the last step's, of all ranks, before clipping."""
    found = {
        "train/loss": loss,
        "train/items_per_second": rate,
        "train/learning_rate": learning_rate,
        "train/epoch": epoch,
    }
    return found | ({"train/grad_norm": ran.grad_norms[-1]} if ran.grad_norms else {})


def figures_of_process(device: torch.device) -> dict[str, float]:
    """Of this rank's memory now, in bytes."""
    resident = resident_bytes()
    found = {} if resident is None else {"system/rank0_resident_bytes": float(resident)}
    if device.type == "cuda":
        found["system/rank0_gpu_allocated_bytes"] = float(torch.cuda.memory_allocated(device))
    return found


def figures_of_validation(evaluation: Evaluation) -> dict[str, float]:
    """Its metrics, and for how many seconds training stood still."""
    return {f"val/{name}": value for name, value in evaluation.metrics.items()} | {"val/seconds": evaluation.seconds}


def figures_of_test(test: Test) -> dict[str, float]:
    """The best checkpoint's metrics on the data held out for it."""
    return {f"test/{name}": value for name, value in test.metrics.items()}


def figures_of_checkpoint(save: Save) -> dict[str, float]:
    """The step that it holds, its bytes, and for how many seconds training stood still."""
    return {
        "checkpoint/step": float(save.step),
        "checkpoint/bytes": float(save.file_bytes),
        "checkpoint/seconds": save.seconds,
    }
