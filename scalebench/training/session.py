"""From a planned training to its record: what has to be known before it starts, and the launch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from scalebench import workloads
from scalebench.data.sampler import GlobalBatchSampler
from scalebench.errors import UserError
from scalebench.harness.launcher import StartMethod
from scalebench.harness.lifeline import private_folder
from scalebench.harness.runner import Begin, Session, execute_as_worker, session_name
from scalebench.harness.stop import stoppable
from scalebench.harness.worker import work
from scalebench.machine import detect
from scalebench.recipe import Recipe
from scalebench.records.record import Record
from scalebench.records.store import require_writable
from scalebench.spec import PlannedRun, RunSpec
from scalebench.strategies import create
from scalebench.trackers.feed import Feed
from scalebench.training import entry
from scalebench.training.board import Board
from scalebench.training.failures import space
from scalebench.training.manifest import WEIGHTS, Manifest, checkpoints_in, exported_file, read_manifest, verify
from scalebench.training.parts import parts
from scalebench.training.pictures import JUDGED, Sheets, pictured
from scalebench.training.stopping import ended
from scalebench.training.weights import stored_as
from scalebench.training.worker import TrainJob, perform
from scalebench.workloads.checkpoint import started

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


def train(
    run: PlannedRun, *, results: Path, start_method: StartMethod, board: Board, feed: Feed | None = None
) -> tuple[Record, Path]:
    """Train as planned and store the record, whatever becomes of it; trackers are told by `feed`.

    Raises UserError and KeyboardInterrupt as scalebench.harness.runner.execute does, and UserError for a checkpoint to
    go on from that is damaged.
    """
    if run.training and run.training.resume:
        checkpoint = Path(run.training.resume)
        verify(checkpoint, read_manifest(checkpoint))
    staging = run.training.staging if run.training else None
    with stoppable() as stop, private_folder(staging) if staging else nullcontext() as staged:
        name = session_name()
        begin = Begin(main=entry.main, job=partial(_job, board, feed, results / name, staged))
        session = Session(results, [run], detect(run.spec.device), start_method, name=name, begin=begin)
        session.prepare()
        return session.perform(0, run, lambda phase: None, stop)


def train_as_worker(
    run: PlannedRun, *, results: Path, board: Board, feed: Feed | None = None
) -> tuple[Record, Path] | None:
    """Be one rank of a training under a foreign launcher, as scalebench.harness.runner.execute_as_worker says.

    Raises UserError for a checkpoint to go on from that is damaged.
    """
    if run.training and run.training.resume and os.environ["RANK"] == "0":
        checkpoint = Path(run.training.resume)
        verify(checkpoint, read_manifest(checkpoint))
    name = session_name()
    job = _job(board, feed, results / name, None, run)
    return execute_as_worker(
        run, results=results, name=name, take_part=partial(work, job, gather=True, perform=perform)
    )


def _job(board: Board, feed: Feed | None, records: Path, staging: Path | None, run: PlannedRun) -> TrainJob:
    sheets = Sheets(records=records.resolve(), name=f"samples/{run.spec.label}-{run.spec.cell_id}")
    return TrainJob(run=run, board=board, feed=feed, sheets=sheets, staging=staging)


def lengths(spec: RunSpec, recipe: Recipe) -> tuple[int, int]:
    """Steps in a whole epoch, and micro-batches in a whole validation.

    Raises UserError for data, and for a checkpoint of start values, that will not do.
    """
    workload = workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed)
    split = parts(started(workload, spec.init_from), spec, recipe)
    sampler = GlobalBatchSampler(
        len(split.train), micro_batch=spec.micro_batch, accumulation=spec.accumulation, world_size=spec.world_size
    )
    return len(sampler), -(-len(split.val) // spec.micro_batch)


def require_room(folder: Path, *, resuming: bool) -> None:
    """Raise UserError where checkpoints could not be written, or would mix with those of another training."""
    if importlib.util.find_spec("safetensors") is None:
        raise UserError(
            "checkpoints need safetensors, which is missing. Type: pip install 'scalebench-suite[checkpoints]'"
        )
    require_writable(folder, "folder of checkpoints", "--checkpoint-dir")
    found = checkpoints_in(folder)
    if found and not resuming:
        raise UserError(
            f"{folder} holds checkpoints already, the last {found[-1].name}. "
            f"Go on with --resume {folder}, or give another --checkpoint-dir."
        )


def require_possible(spec: RunSpec, recipe: Recipe) -> None:
    """Raise UserError for a validation that the strategy, or samples that the workload, cannot give."""
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


def start_anew(checkpoint: Path, manifest: Manifest) -> str:
    """How to go on from a checkpoint that cannot be resumed as is asked."""
    if WEIGHTS in manifest.files:
        return f"Or start a new training from its weights: --init-from {checkpoint}/{WEIGHTS}"
    file = exported_file(checkpoint)
    return f"Or start a new training from its weights: scalebench train --export {checkpoint}, then --init-from {file}"


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
