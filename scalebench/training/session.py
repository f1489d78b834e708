"""From a planned training to its record: what has to be known before it starts, and the launch."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

from scalebench import workloads
from scalebench.data.sampler import GlobalBatchSampler
from scalebench.errors import UserError
from scalebench.harness.launcher import StartMethod
from scalebench.harness.runner import Begin, Session
from scalebench.harness.stop import stoppable
from scalebench.machine import detect
from scalebench.recipe import Recipe
from scalebench.records.record import Record
from scalebench.spec import PlannedRun, RunSpec
from scalebench.strategies import create
from scalebench.training import entry
from scalebench.training.board import Board
from scalebench.training.manifest import Manifest, checkpoints_in
from scalebench.training.parts import parts
from scalebench.training.worker import TrainJob
from scalebench.workloads.checkpoint import started

FREE_TO_CHANGE = {
    "strategy", "strategy_options", "device", "world_size", "threads_per_rank", "cores_per_rank", "profile", "scaling",
    "grad_sync", "micro_batch", "accumulation", "activation_checkpointing", "compile", "warmup_steps", "steps",
    "max_seconds", "num_workers", "memory_limit_bytes", "diagnostics", "debug", "timeout_seconds", "tf32",
    "init_from", "init_from_sha256",
}  # fmt: skip
"""What a resumed training may do otherwise than before: how it is computed, not what."""


def train(run: PlannedRun, *, results: Path, start_method: StartMethod, board: Board) -> tuple[Record, Path]:
    """Train as planned and store the record, whatever becomes of it. Raises UserError and KeyboardInterrupt as
    scalebench.harness.runner.execute does."""
    with stoppable() as stop:
        begin = Begin(main=entry.main, job=partial(_job, board))
        session = Session(results, [run], detect(run.spec.device), start_method, begin=begin)
        session.prepare()
        return session.perform(0, run, lambda phase: None, stop)


def _job(board: Board, run: PlannedRun) -> TrainJob:
    return TrainJob(run=run, board=board)


def lengths(spec: RunSpec, recipe: Recipe) -> tuple[int, int]:
    """Steps in a whole epoch, and micro-batches in a whole validation.

    Raises UserError for data, and for a checkpoint of start values, that will not do.
    """
    workload = workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed)
    train_part, val_part = parts(started(workload, spec.init_from), spec, recipe)
    sampler = GlobalBatchSampler(
        len(train_part), micro_batch=spec.micro_batch, accumulation=spec.accumulation, world_size=spec.world_size
    )
    return len(sampler), -(-len(val_part) // spec.micro_batch)


def require_room(folder: Path, resume: str | None) -> None:
    """Raise UserError where checkpoints would mix with those of another training, or cannot be read again."""
    if importlib.util.find_spec("safetensors") is None:
        raise UserError(
            "checkpoints need safetensors, which is missing. Type: pip install 'scalebench-suite[checkpoints]'"
        )
    found = checkpoints_in(folder)
    if found and resume is None:
        raise UserError(
            f"{folder} holds checkpoints already, the last {found[-1].name}. "
            "Go on with --resume, or give another --checkpoint-dir."
        )


def require_resumable(checkpoint: Path, manifest: Manifest, spec: RunSpec) -> None:
    """Raise UserError unless a training of `spec` can go on from `checkpoint`."""
    if manifest.contents == "weights":
        raise UserError(
            f"{checkpoint} holds weights alone: start a new training with --init-from {checkpoint}/weights.safetensors"
        )
    then, now = manifest.spec, spec
    for name, value in then.model_dump().items():
        if name not in FREE_TO_CHANGE and value != getattr(now, name) and value != now.model_dump()[name]:
            raise UserError(
                f"{checkpoint} was trained with {name} {value!r}, now {now.model_dump()[name]!r} is asked for."
            )
    if then.global_batch != now.global_batch:
        raise UserError(
            f"{checkpoint} was trained with an effective batch of {then.global_batch}, now it would be "
            f"{now.global_batch}. Choose --micro-batch and --accumulation so that with --gpus they give the same."
        )
    same_shards = (then.strategy, then.strategy_options, then.world_size) == (
        now.strategy, now.strategy_options, now.world_size,
    )  # fmt: skip
    resizes = all(create(one.strategy, one.strategy_options).resizes for one in (then, now))
    if not same_shards and not resizes:
        raise UserError(
            f"{checkpoint} is of {then.strategy} on {then.world_size} ranks, and DeepSpeed's shards fit nothing else. "
            f"Resume it so, or start from its weights: --init-from {checkpoint}/weights.safetensors"
        )
