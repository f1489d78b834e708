"""Whether a training can go on from a checkpoint, and what may be otherwise than before."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from scalebench.errors import UserError
from scalebench.recipe import Recipe
from scalebench.spec import RunSpec
from scalebench.strategies import create
from scalebench.training.manifest import WEIGHTS, Manifest, exported_file
from scalebench.training.stopping import ended

FREE_TO_CHANGE = {
    "strategy", "strategy_options", "device", "world_size", "threads_per_rank", "cores_per_rank", "profile", "scaling",
    "grad_sync", "micro_batch", "accumulation", "activation_checkpointing", "compile", "warmup_steps", "steps",
    "max_seconds", "num_workers", "memory_limit_bytes", "diagnostics", "debug", "timeout_seconds", "tf32",
    "deterministic", "detect_anomaly", "cudnn_benchmark",
    "init_from", "init_from_sha256",
}  # fmt: skip
"""What a resumed training may do otherwise than before: how it is computed, not what."""
FREE_OF_RECIPE = {
    "steps", "rule", "rule_by", "base", "base_learning_rate", "val_batches", "val_every", "save_every", "log_every",
    "keep_best", "contents", "save_async", "patience", "target", "validate_on", "test_data",
    "samples", "fid", "callbacks",
}  # fmt: skip
"""Of the rates the spec holds what they come to."""


def require_resumable(checkpoint: Path, manifest: Manifest, spec: RunSpec, recipe: Recipe) -> None:
    """Raise UserError unless a training of `spec` by `recipe` can go on from `checkpoint`."""
    otherwise = start_anew(checkpoint, manifest)
    if manifest.contents == "weights":
        raise UserError(f"{checkpoint} holds weights alone, and cannot be resumed. {otherwise}")
    differing = [
        *differences(manifest.spec, spec, FREE_TO_CHANGE),
        *differences(manifest.recipe, recipe, FREE_OF_RECIPE),
    ]
    if recipe.schedule in ("cosine", "linear") and manifest.recipe.steps != recipe.steps:
        differing.append(f"steps {manifest.recipe.steps}, at which its schedule ends, now {recipe.steps}")
    if manifest.spec.global_batch != spec.global_batch:
        differing.append(f"an effective batch of {manifest.spec.global_batch}, now {spec.global_batch}")
    if differing:
        raise UserError(f"{checkpoint} was trained with {'; with '.join(differing)}. Ask for the same. {otherwise}")
    require_loadable(checkpoint, manifest.spec, spec, otherwise)
    over = ended(recipe, manifest.evaluations, manifest.step)
    if over and not recipe.tests:
        more = {"steps": "more --steps", "target": "another --target", "patience": "more --patience"}
        raise UserError(f"{checkpoint} is where its training came to its end. Give {more[over]} to go on.")


def require_loadable(checkpoint: Path, then: RunSpec, now: RunSpec, otherwise: str) -> None:
    """Raise UserError where the shards of one fit neither the strategy nor the ranks of the other."""
    pairs = [(one.strategy, one.strategy_options, one.world_size) for one in (then, now)]
    resizes = all(create(one.strategy, one.strategy_options).resizes for one in (then, now))
    if pairs[0] != pairs[1] and not resizes:
        raise UserError(
            f"{checkpoint} is of {then.strategy} on {then.world_size} ranks, now it is {now.strategy} on "
            f"{now.world_size}, and DeepSpeed's shards fit nothing else. Resume it as it was. {otherwise}"
        )


def start_anew(checkpoint: Path, manifest: Manifest) -> str:
    """How to go on from a checkpoint that cannot be resumed as is asked."""
    if WEIGHTS in manifest.files:
        return f"Or start a new training from its weights: --init-from {checkpoint}/{WEIGHTS}"
    file = exported_file(checkpoint)
    return f"Or start a new training from its weights: scalebench train --export {checkpoint}, then --init-from {file}"


def differences(then: BaseModel, now: BaseModel, free: Collection[str]) -> Iterator[str]:
    """`seed 0, now 3` for each value, however deep, that differs, but for the `free` fields."""
    before, after = _flat(then.model_dump(exclude=set(free))), _flat(now.model_dump(exclude=set(free)))
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield f"{name} {before.get(name)}, now {after.get(name)}"


def _flat(values: Mapping[str, Any]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return found
