"""From a planned training to its record: what has to be known before it starts, and the launch."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

from scalebench import workloads
from scalebench.data.sampler import GlobalBatchSampler
from scalebench.harness.launcher import StartMethod
from scalebench.harness.lifeline import private_folder
from scalebench.harness.runner import Begin, Session, execute_as_worker, session_name
from scalebench.harness.stop import stoppable
from scalebench.harness.worker import work
from scalebench.machine import detect
from scalebench.recipe import Recipe
from scalebench.records.record import Record
from scalebench.spec import PlannedRun, RunSpec
from scalebench.trackers.feed import Feed
from scalebench.training import entry
from scalebench.training.board import Board
from scalebench.training.parts import parts
from scalebench.training.pictures import Sheets
from scalebench.training.worker import TrainJob, perform
from scalebench.workloads.checkpoint import started


def train(
    run: PlannedRun, *, results: Path, start_method: StartMethod, board: Board, feed: Feed | None = None
) -> tuple[Record, Path]:
    """Train as planned and store the record, whatever becomes of it; trackers are told by `feed`.

    Raises UserError and KeyboardInterrupt as scalebench.harness.runner.execute does.
    """
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
    """Be one rank of a training under a foreign launcher, as scalebench.harness.runner.execute_as_worker says."""
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
