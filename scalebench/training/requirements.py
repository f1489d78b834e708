"""What must hold before a training is launched: folders, room on disks, what the workload and the strategy can do."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from scalebench import workloads
from scalebench.errors import UserError
from scalebench.recipe import Recipe
from scalebench.records.store import require_writable
from scalebench.spec import RunSpec
from scalebench.strategies import create
from scalebench.training.failures import space
from scalebench.training.manifest import checkpoints_in
from scalebench.training.metric_names import require_metrics
from scalebench.training.pictures import JUDGED, pictured
from scalebench.training.weights import stored_as


def require_room(folder: Path, resumed: Path | None) -> None:
    """Raise UserError where checkpoints could not be written, or would mix with those of another training, or with
    later ones than the one that is `resumed`."""
    if importlib.util.find_spec("safetensors") is None:
        raise UserError(
            "checkpoints need safetensors, which is missing. Type: pip install 'scalebench-suite[checkpoints]'"
        )
    require_writable(folder, "folder of checkpoints", "--checkpoint-dir")
    found = checkpoints_in(folder)
    if resumed and resumed.parent.resolve() == folder.resolve():
        if found[-1].name != resumed.name:
            raise UserError(
                f"{folder} holds later checkpoints than {resumed.name}, the last {found[-1].name}. Those to come would "
                "mix with them: give another --checkpoint-dir, or remove them."
            )
    elif found:
        raise UserError(
            f"{folder} holds checkpoints already, the last {found[-1].name}. "
            f"Go on with --resume {folder}, or give another --checkpoint-dir."
        )


def require_possible(spec: RunSpec, recipe: Recipe) -> None:
    """Raise UserError for a validation that the strategy, or samples or metrics that the workload, cannot give."""
    if recipe.validate_on == "rank0" and not create(spec.strategy, spec.strategy_options).evaluates_alone:
        raise UserError(
            f"--validate-on rank0: rank 0 of {spec.strategy} cannot evaluate while the others wait, since it takes all "
            "ranks to run the model. Give --validate-on all, or train under ddp or single."
        )
    if recipe.samples or recipe.fid:
        pictured(spec.workload, spec.data)
    if recipe.fid and spec.workload not in JUDGED:
        raise UserError(
            f"--fid-extractor: what {spec.workload} makes is not like its data. It is for {', '.join(JUDGED)}."
        )
    require_metrics(spec, recipe)


def require_staging(spec: RunSpec, recipe: Recipe, folder: Path) -> None:
    """Raise UserError where no checkpoint of this training can be written first."""
    require_writable(folder, "folder in which checkpoints are written first", "--staging-dir")
    needed, left = least_bytes(spec, recipe), space(folder)
    if needed > left:
        raise UserError(
            f"--save-async writes each checkpoint into {folder} first: it takes at least {needed / 2**20:,.0f} MiB, "
            f"and {left / 2**20:,.0f} MiB are free. Make it larger (for docker: --shm-size), give another "
            "--staging-dir, or leave --save-async out."
        )


def least_bytes(spec: RunSpec, recipe: Recipe) -> int:
    """What a checkpoint holds at least: parameters in fp32, in the state their optimizer's moments and averages too."""
    workload = workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed)
    whole = sum(tensor.numel() for tensor in stored_as(workload).values()) * torch.float32.itemsize
    kept = 1 if spec.ema_decay is None else 2
    moments = 2 if spec.optimizer.name == "adamw" else bool(spec.optimizer.momentum)
    state, weights = whole * (kept + moments), whole * kept
    return {"full": state + weights, "state": state, "weights": weights}[recipe.contents]
