"""What `scalebench train --resume` asks for: what was asked when its training began, and over it the flags."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalebench.adapters import OWN_DATA
from scalebench.cli.run import is_worker
from scalebench.matrix.request import merged_options
from scalebench.recipe import Recipe
from scalebench.spec import RunSpec
from scalebench.strategies.config import OptimizerConfig
from scalebench.training.manifest import Manifest, found_checkpoint, read_manifest
from scalebench.training.whole import last_whole, set_aside, verify


def resumed_checkpoint(flags: Mapping[str, Any], tell: Callable[[Sequence[str]], None]) -> tuple[Path, Manifest] | None:
    """The checkpoint to go on from, and what it says. Raises UserError when there is none that is whole."""
    if "resume" not in flags:
        return None
    find = the_same_on_every_rank if is_worker(os.environ) else passing_over_damaged_ones
    checkpoint = find(Path(flags["resume"]), tell)
    return checkpoint, read_manifest(checkpoint)


def passing_over_damaged_ones(path: Path, tell: Callable[[Sequence[str]], None]) -> Path:
    """Of a folder the last checkpoint that is whole; later ones are told of, and set aside."""
    checkpoint, damages = last_whole(path)
    for damaged, error in damages.items():
        tell([f"{error} {set_aside(damaged)}".rstrip()])
    if damages:
        tell([f"going on from {checkpoint}, the last that is whole."])
    return checkpoint


def the_same_on_every_rank(path: Path, tell: Callable[[Sequence[str]], None]) -> Path:
    """Under a foreign launcher: the last one, which rank 0 alone reads through, and which must be whole."""
    checkpoint = found_checkpoint(path)
    if os.environ["RANK"] == "0":
        verify(checkpoint, read_manifest(checkpoint))
    return checkpoint


def resuming_flags(checkpoint: Path, manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every flag as it was, changed by those `given` now. Checkpoints go beside the one that it goes on from."""
    then = _of_spec(manifest.spec) | _of_recipe(manifest.recipe) | {"checkpoint_dir": str(checkpoint.parent)}
    options: dict[str, Any] = {"workload": manifest.spec.workload_options}
    if given.get("strategy", manifest.spec.strategy) == manifest.spec.strategy:
        options["strategy"] = manifest.spec.strategy_options
        then["grad_sync"] = manifest.spec.grad_sync
    if "epochs" in given:
        del then["steps"]
    return then | dict(given) | {"set": merged_options(options, given.get("set", {}))}


def _of_spec(spec: RunSpec) -> dict[str, Any]:
    names = ["strategy", "precision", "workload", "size", "device", "profile"]
    names += ["data"] if spec.data != OWN_DATA else []
    numbers = ("seed", "micro_batch", "num_workers")
    switches = ("tf32", "compile", "activation_checkpointing", "deterministic", "detect_anomaly", "cudnn_benchmark")
    return {
        **{name: getattr(spec, name) for name in names},
        **{name: str(getattr(spec, name)) for name in numbers},
        **{name: True for name in switches if getattr(spec, name)},
        "gpus": str(spec.world_size),
        "optimizer": spec.optimizer.name,
        "clip_norm": str(spec.clip_norm or "none"),
        "ema_decay": str(spec.ema_decay or "none"),
        "timeout": str(spec.timeout_seconds),
        **({"memory_limit": str(spec.memory_limit_bytes)} if spec.memory_limit_bytes else {}),
    }


def _of_recipe(recipe: Recipe) -> dict[str, Any]:
    names = ("steps", "schedule", "warmup_steps", "val_share", "val_data", "val_every", "monitor", "patience")
    said = {
        name: getattr(recipe, name)
        for name in (*names, "save_every", "keep_best", "log_every", "validate_on", "test_data", "samples")
    }
    said |= {"lr_rule": recipe.rule, "lr_rule_by": recipe.rule_by, "lr_base": recipe.base}
    said |= {"learning_rate": str(recipe.base_learning_rate), "limit_train_batches": str(recipe.steps_per_epoch)}
    said |= {"limit_val_batches": str(recipe.val_batches), "save_async": recipe.save_async or None}
    said |= {"checkpoint_contents": recipe.contents}
    said["test"] = recipe.tests or None
    if recipe.fid:
        said |= {"fid_extractor": recipe.fid.extractor, "fid_samples": recipe.fid.samples}
    said["callback"] = recipe.callbacks or None
    if recipe.target:
        said["target"] = f"{recipe.target.metric}={recipe.target.value}"
    return {name: value for name, value in said.items() if value is not None}


def with_optimizer(spec: RunSpec, then: OptimizerConfig) -> RunSpec:
    """`spec` with the settings of its optimizer as they were `then`, perhaps the model's own, at its learning rate; as
    it is, where it has another optimizer."""
    if spec.optimizer.name != then.name:
        return spec
    same = dataclasses.replace(then, learning_rate=spec.optimizer.learning_rate)
    return spec.model_copy(update={"optimizer": same})


def with_global_batch(spec: RunSpec, global_batch: int) -> RunSpec:
    """`spec` accumulating so that its effective batch is `global_batch`, if it can."""
    accumulation, left = divmod(global_batch, spec.micro_batch * spec.world_size)
    return spec if left or not accumulation else spec.model_copy(update={"accumulation": accumulation})
