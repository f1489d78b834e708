"""From planned runs to records: launch each in turn, turn whatever happens into a record, write it before the next
begins.

Importing this does not import torch, so that the ranks' fork server and this process can do so at the same time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import psutil

from scalebench import adapters, strategies, workloads
from scalebench.errors import UserError
from scalebench.harness import entry
from scalebench.harness.fit import implied_outcome
from scalebench.harness.job import Job, Orders, Report
from scalebench.harness.launcher import IMPORT_ENVIRONMENT, SERVER_SECONDS, Launcher, LaunchError, StartMethod
from scalebench.harness.lifeline import private_folder
from scalebench.harness.outcome import Outcome, failure_outcome, success_outcome
from scalebench.harness.rank import failure_of
from scalebench.harness.stop import Stop, stoppable
from scalebench.machine import Machine, detect
from scalebench.meters.device import Sampler
from scalebench.records.environment import collect, debug_variables_set
from scalebench.records.record import Record
from scalebench.records.store import require_writable, write_record
from scalebench.spec import PlannedRun, RunSpec

PRELOADS = {
    "deepspeed": "scalebench.harness.preload_deepspeed",
    "lightning": "scalebench.harness.preload_lightning",
    "accelerate": "scalebench.harness.preload_accelerate",
}
"""What the fork server imports beside torch when a run needs a package."""


class Progress(Protocol):
    """Whoever watches a session."""

    def session_started(self, runs: Sequence[PlannedRun]) -> None: ...
    def run_started(self, index: int, run: PlannedRun) -> None: ...
    def phase(self, index: int, phase: str) -> None: ...
    def run_ended(self, index: int, record: Record, path: Path) -> None: ...


def execute(
    runs: Sequence[PlannedRun],
    *,
    results: Path,
    progress: Progress,
    start_method: StartMethod = "forkserver",
    did_not_fit: Iterable[RunSpec] | None = (),
) -> list[tuple[Record, Path]]:
    """Run everything planned, in order, and return the records with their paths. Every record is on disk before the
    next run.

    A run whose cell ran out of memory with a smaller micro-batch, here or among `did_not_fit`, is recorded as `oom`
    without being made; with None every run is made.

    Asked to stop once (Ctrl-C, SIGTERM, SIGHUP), it stops the run, records it as interrupted and returns; asked between
    two runs, or twice, it raises KeyboardInterrupt. Raises UserError, before anything is measured, when `results`
    cannot be written, the data of some run cannot be read or does not fill one global batch, or its checkpoint will not
    do.
    """
    with stoppable() as stop:
        session = Session(results, runs, detect(runs[0].spec.device), start_method, did_not_fit)
        session.prepare()
        check_data(runs)
        progress.session_started(runs)
        finished: list[tuple[Record, Path]] = []
        for index, run in enumerate(runs):
            if stop():
                raise KeyboardInterrupt
            progress.run_started(index, run)
            record, path = session.perform(index, run, partial(progress.phase, index), stop)
            progress.run_ended(index, record, path)
            finished.append((record, path))
            if record.status == "interrupted":
                break
        return finished


def execute_as_worker(
    run: PlannedRun, *, results: Path, name: str | None = None, take_part: Callable[[], list[Report]] | None = None
) -> tuple[Record, Path] | None:
    """Be one rank of `run` under a foreign launcher (torchrun), whose variables say which. Rank 0 stores and returns
    the record, in the session `name` if it is given.

    What each rank does is as for a run, unless there is another way to `take_part`: it gives the reports of all ranks
    on rank 0, and none elsewhere.

    Returns None on the other ranks. An exception is recorded by the rank that was the first on its host to raise one,
    then raised again so that the launcher ends the others.
    """
    from scalebench.harness import worker

    os.environ.update({name: value for name, value in IMPORT_ENVIRONMENT.items() if name not in os.environ})
    os.environ.setdefault("DS_ACCELERATOR", run.spec.device)
    machine = detect(run.spec.device)  # before this rank is pinned to a part of it
    try:
        reports = take_part() if take_part else worker.work(Job(run=run), gather=True)
    except Exception as error:
        if is_first():
            failure = failure_of(error, int(os.environ["RANK"]))
            Session(results, [run], machine, name=name).keep(run, failure_outcome(failure))
        raise
    return Session(results, [run], machine, name=name).keep(run, success_outcome(reports)) if reports else None


def is_first() -> bool:
    """Whether no other rank of this process's launcher has asked. A socket with a name but no file (Linux) says so; it
    goes with this process."""
    launcher = psutil.Process(os.getppid())
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0scalebench-{launcher.pid}-{launcher.create_time()}")
    except OSError:
        return False
    claim.detach()  # open until this process ends
    return True


def session_name() -> str:
    """A new one: when it began, and something that tells it from another of the same second."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def plain_job(run: PlannedRun) -> Job:
    return Job(run=run)


@dataclass(frozen=True, kw_only=True)
class Begin:
    """What each rank of a session is told to run (importable), and with what, but for what the launcher adds."""

    main: Callable[[Job], Report] = field(default_factory=lambda: entry.main)  # as it is then: tests put faults there
    job: Callable[[PlannedRun], Job] = plain_job


class Session:
    """A row of runs measured together: one folder of records, one environment, one fork server."""

    def __init__(
        self,
        results: Path,
        runs: Sequence[PlannedRun],
        machine: Machine,
        start_method: StartMethod = "forkserver",
        did_not_fit: Iterable[RunSpec] | None = None,
        name: str | None = None,
        begin: Begin | None = None,
    ) -> None:
        self.name = name or session_name()
        self._begin = begin or Begin()
        self.folder = results / self.name
        require_writable(results)
        device = runs[0].spec.device
        self._machine = machine
        self._did_not_fit = None if did_not_fit is None else list(did_not_fit)
        self._debug = any(run.spec.debug for run in runs)
        self._launcher = Launcher(
            device=device, start_method=start_method, preload=preload_for(runs), debug=self._debug
        )

    def prepare(self) -> None:
        """Let the launcher begin with what is slow, so that this process can import torch at the same time."""
        self._launcher.prepare()

    def settle(self) -> None:
        """Wait until all that is slow has been done, so that from now on no run disturbs what runs elsewhere."""
        with private_folder() as folder:
            self._launcher.launch(entry.arrive, Orders(), 1, folder, patience=SERVER_SECONDS)

    @cached_property
    def _environment(self) -> dict[str, object]:
        return collect()

    def perform(
        self, index: int, run: PlannedRun, phase: Callable[[str], None], stop: Stop | None = None
    ) -> tuple[Record, Path]:
        """Launch one run and store its record, whatever became of it; `stop` says when somebody asks to stop it."""
        started = datetime.now(UTC)
        with private_folder() as folder:
            outcome = self._ruled_out(run) or self._attempt(run, folder, phase, stop or Stop())
            if outcome.status == "oom" and self._did_not_fit is not None:
                self._did_not_fit.append(run.spec)
            log = self._keep_log(run, folder) if outcome.status != "ok" or self._debug else None
        return self.keep(run, outcome, order=index, started=started, log=log)

    def keep(
        self,
        run: PlannedRun,
        outcome: Outcome,
        *,
        order: int = 0,
        started: datetime | None = None,
        log: str | None = None,
    ) -> tuple[Record, Path]:
        """The record of `outcome`, stored."""
        ended = datetime.now(UTC)
        record = self._record(order, run, outcome, log, started or ended, ended)
        return record, self._store(record)

    def _ruled_out(self, run: PlannedRun) -> Outcome | None:
        """What is known of a run without making it."""
        spec = run.spec
        if spec.workload_sha256 and spec.workload_sha256 != adapters.source_sha256(spec.workload):
            return Outcome(status="failed", reason=f"the file of {spec.workload} has changed since this was planned")
        reason = unsupported_reason(spec)
        if reason:
            return Outcome(status="unsupported", reason=reason)
        return implied_outcome(run, self._did_not_fit or ())

    def _attempt(self, run: PlannedRun, folder: Path, phase: Callable[[str], None], stop: Stop) -> Outcome:
        sampler = Sampler(read_by="launcher", gpus=run.spec.device == "cuda")
        try:
            with sampler:
                reports = self._launcher.launch(
                    self._begin.main,
                    self._begin.job(run),
                    run.spec.world_size,
                    folder,
                    patience=run.spec.timeout_seconds,
                    on_phase=phase,
                    stopping=stop,
                )
        except LaunchError as error:
            return failure_outcome(error.failure)
        except KeyboardInterrupt:
            if stop.now:
                raise
            return Outcome(status="interrupted", reason=stop.reason)
        return success_outcome([report.with_sensors(sampler.facts()) for report in reports])

    def _record(
        self, order: int, run: PlannedRun, outcome: Outcome, log: str | None, started: datetime, ended: datetime
    ) -> Record:
        spec, first = run.spec, outcome.reports[0] if outcome.reports else None
        because = ["--debug was given"] if spec.debug else []
        because += [f"{setting} was set" for setting in debug_variables_set()]
        error = outcome.error.model_copy(update={"log": log}) if outcome.error else None
        return Record(
            kind=run.kind,
            trial=run.trial,
            recipe=run.training.recipe if run.training else None,
            spec=spec,
            session=self.name,
            repeat=run.repeat,
            order=order,
            status=outcome.status,
            reason=outcome.reason,
            error=error,
            comparable=not because,
            not_comparable_because=because,
            oversubscribed=spec.device == "cpu"
            and spec.world_size * (spec.threads_per_rank or 1) > self._machine.cores,
            functional_only=functional_only(spec),
            started_at=started.isoformat(timespec="milliseconds"),
            wall_seconds=(ended - started).total_seconds(),
            workload=first.workload if first else None,
            contract=first.contract if first else None,
            unmatched=first.unmatched if first else [],
            window=first.window if first else None,
            theory=first.theory if first else None,
            ranks=[report.facts for report in outcome.reports if report.facts],
            parity=first.parity if first else None,
            training=first.training if first else None,
            environment=self._environment,
        )

    def _keep_log(self, run: PlannedRun, folder: Path) -> str | None:
        """Copy the ranks' output beside the records, empty files when debugging only; its path relative to them."""
        outputs = sorted(path for path in folder.glob("logs/*.log") if path.stat().st_size or self._debug)
        if not outputs:
            return None
        target = self.folder / "logs" / f"{run.spec.label}-{run.spec.cell_id}-{run.kind}{run.repeat}"
        try:
            target.mkdir(parents=True, exist_ok=True)
            for path in outputs:
                shutil.copy(path, target)
        except OSError:
            return None  # The record matters more than its log: a full disk is reported when the record is written.
        return str(target.relative_to(self.folder))

    def _store(self, record: Record) -> Path:
        try:
            return write_record(record, self.folder)
        except OSError as error:
            raise UserError(
                f"cannot write into '{self.folder}': {error.strerror}. {_rescued(record)} Make room or permit writing, "
                "and run the same command with --resume."
            ) from error


REFUGES = (None, "/dev/shm")
"""Where a record may go that finds no room among the others: the temporary folder or, if that is full too, memory."""


def _rescued(record: Record) -> str:
    """A sentence on what became of a record that could not be stored."""
    for place in REFUGES:
        with contextlib.suppress(OSError):
            path = write_record(record, Path(tempfile.mkdtemp(prefix="scalebench-rescued-", dir=place)))
            return f"This run's record was saved as {path}; move it there."
    return "This run's record found no room anywhere and is lost."


def check_data(runs: Sequence[PlannedRun]) -> None:
    """Read (and so prepare, once, off the clock) the data of every run, and its checkpoint. Raises UserError for those
    that will not do."""
    from scalebench.data.sampler import GlobalBatchSampler
    from scalebench.workloads.checkpoint import started

    for spec in {run.spec for run in runs}:
        workload = started(
            workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed), spec.init_from
        )
        adapters.check(workload)
        samples = len(workload.samples(spec.data, spec.seed))
        GlobalBatchSampler(
            samples, micro_batch=spec.micro_batch, accumulation=spec.accumulation, world_size=spec.world_size
        )


def unsupported_reason(spec: RunSpec) -> str | None:
    """Why this cell cannot run here, known before launch; None when nothing speaks against it."""
    strategy = strategies.create(spec.strategy, spec.strategy_options)
    reason = strategy.unsupported_reason(spec.train_config(), spec.device, spec.world_size)
    if reason or not adapters.is_own(spec.workload):
        return reason
    workload = workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed)
    return adapters.unsupported_reason(workload, spec.strategy, spec.strategy_options, spec.train_config())


def functional_only(spec: RunSpec) -> str | None:
    """Why figures of this spec say nothing about speed, or None."""
    if spec.strategy not in strategies.entries():  # a loop of the user's own
        return None
    strategy = strategies.create(spec.strategy, spec.strategy_options)
    if spec.device == "cpu" and strategy.offloads:
        return "offload to the CPU from the CPU: nothing is moved, so this shows that it works, not what it costs"
    return None


def preload_for(runs: Sequence[PlannedRun]) -> tuple[str, ...]:
    """What the fork server imports for these runs."""
    known = strategies.entries()
    names = {run.spec.strategy for run in runs} & known.keys()
    needs = {strategies.needs(name) for name in names | {strategies.raw_name(name) for name in names}}
    preloads = [PRELOADS[package] for package in PRELOADS if package in needs]
    return ("scalebench.harness.preload", *preloads, *adapters.preloads())
