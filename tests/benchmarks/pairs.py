"""Pairs of fresh-process runs of the same training: one by scalebench, one by the bare script under torchrun.

Both sides are read from the same facts, the ends of all steps on CLOCK_MONOTONIC, by the same function. Their order
within a pair is AB, BA, AB, ... from a random start, cells are shuffled within each round, and a pair whose losses
disagree raises: then the two did not do the same work.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from scalebench.analysis.steps import foreign_cpu_cores
from scalebench.harness.placement import KEPT_AT_THE_END_BYTES, KEPT_BLOCK_BYTES
from scalebench.harness.runner import execute
from scalebench.records.environment import collect
from scalebench.records.record import Record
from scalebench.spec import PlannedRun, RunSpec

ROOT = Path(__file__).parents[2]
BARE = Path(__file__).with_name("bare.py")
MICRO_BATCH = 4
COMPARED_LOSSES = 5
LOSS_TOLERANCE = 1e-4
TIMEOUT_SECONDS = 300


class Facts(BaseModel):
    model_config = ConfigDict(frozen=True)


class Cell(Facts):
    """A strategy on a number of CPU ranks, written `fsdp:2`."""

    strategy: str
    ranks: int

    @classmethod
    def parse(cls, text: str) -> Cell:
        strategy, _, ranks = text.partition(":")
        return cls(strategy=strategy, ranks=int(ranks))

    @property
    def deepspeed(self) -> bool:
        return self.strategy.startswith("deepspeed")

    def spec(self, warmup_steps: int, steps: int) -> RunSpec:
        """What scalebench runs; bare.py has the same values written out."""
        return RunSpec(
            workload="gpt",
            size="tiny",
            data="synthetic",
            strategy=self.strategy,
            device="cpu",
            world_size=self.ranks,
            threads_per_rank=1,
            cores_per_rank=1,
            micro_batch=MICRO_BATCH,
            warmup_steps=warmup_steps,
            steps=steps,
        )


class Sample(Facts):
    """One run: mean step time over the window, time from the launch to the end of the first step on all ranks, both in
    seconds, and from the end of the last step to the moment the next launch may begin; and rank 0's first losses."""

    step_seconds: float
    start_seconds: float
    end_seconds: float
    losses: list[float]

    @classmethod
    def of(
        cls, launched_ns: int, returned_ns: int, ends_ns: Sequence[Sequence[int]], losses: list[float], warmup: int
    ) -> Sample:
        """From the ends of all steps of each rank. A step of the job ends when its last rank has ended it."""
        ends = [max(step) for step in zip(*ends_ns, strict=True)]
        return cls(
            step_seconds=(ends[-1] - ends[warmup - 1]) / (len(ends) - warmup) / 1e9,
            start_seconds=(ends[0] - launched_ns) / 1e9,
            end_seconds=(returned_ns - ends[-1]) / 1e9,
            losses=losses[:COMPARED_LOSSES],
        )


class Pair(Facts):
    """The two runs of one round of one cell; `stages` are scalebench's own start-up times of rank 0, in seconds, and
    `foreign_cores` what others took of this machine in scalebench's window, if known."""

    cell: Cell
    round: int
    scalebench: Sample
    torchrun: Sample
    stages: dict[str, float]
    foreign_cores: float | None


class Study(Facts):
    """What one sitting measured, and where."""

    environment: dict[str, object]
    pairs: list[Pair]

    @classmethod
    def read(cls, results: Path) -> Study:
        return cls.model_validate_json((results / "pairs.json").read_bytes())


def measure(
    cells: Sequence[Cell],
    rounds: int,
    *,
    warmup: int,
    steps: int,
    seed: int,
    results: Path,
    tell: Callable[[str], None],
) -> Study:
    """Run `rounds` pairs of each cell. Every pair is on disk (`results`/pairs.json) before the next is begun.

    Raises RuntimeError when a run fails or the losses of a pair disagree.
    """
    results.mkdir(parents=True, exist_ok=True)
    pairing = Pairing(list(schedule(cells, rounds, seed)), results / "pairs.json", tell)
    specs = {cell: cell.spec(warmup, steps) for cell in cells}
    runs = [PlannedRun(spec=specs[cell], repeat=number) for number, cell, _ in pairing.planned]
    # The first run of a session waits for its fork server to import everything: it is not of any pair.
    execute([PlannedRun(spec=runs[0].spec, repeat=rounds), *runs], results=results / "records", progress=pairing)
    return pairing.study


def schedule(cells: Sequence[Cell], rounds: int, seed: int) -> Iterator[tuple[int, Cell, bool]]:
    """Round, cell, and whether the bare script goes first: cells in random order, each side first every other time."""
    chance = random.Random(seed)
    bare_first = {cell: chance.random() < 0.5 for cell in cells}
    for number in range(rounds):
        for cell in chance.sample(list(cells), len(cells)):
            yield number, cell, bare_first[cell] == (number % 2 == 0)


class Pairing:
    """Watches scalebench's session and runs the bare script just before or just after each of its runs."""

    def __init__(self, planned: list[tuple[int, Cell, bool]], path: Path, tell: Callable[[str], None]) -> None:
        self.planned = planned
        self.study = Study(environment=collect(), pairs=[])
        self._path, self._tell = path, tell
        self._bare: Sample | None = None
        self._launched_ns = 0

    def session_started(self, runs: Sequence[PlannedRun]) -> None: ...
    def phase(self, index: int, phase: str) -> None: ...

    def run_started(self, index: int, run: PlannedRun) -> None:
        if index:
            number, cell, bare_first = self.planned[index - 1]
            self._tell(f"round {number + 1}: {cell.strategy} on {cell.ranks}")
            self._bare = run_bare(run.spec) if bare_first else None
        self._launched_ns = time.monotonic_ns()

    def run_ended(self, index: int, record: Record, path: Path) -> None:
        returned_ns = time.monotonic_ns()
        if record.status != "ok":
            raise RuntimeError(f"{record.spec.label}: {record.status}: {record.reason}")
        if not index:
            return
        number, cell, _ = self.planned[index - 1]
        ends, first = [facts.step_end_ns for facts in record.ranks], record.ranks[0]
        assert record.window is not None
        warmup = record.window.first_step + record.window.refill_steps
        ours = Sample.of(self._launched_ns, returned_ns, ends, first.losses, warmup)
        bare = self._bare or run_bare(record.spec)
        require_same_losses(cell, ours, bare)
        self.study.pairs.append(
            Pair(
                cell=cell,
                round=number,
                scalebench=ours,
                torchrun=bare,
                stages=first.startup_seconds,
                foreign_cores=foreign_cpu_cores(record),
            )
        )
        self._path.write_text(self.study.model_dump_json(indent=1) + "\n")


def require_same_losses(cell: Cell, ours: Sample, bare: Sample) -> None:
    """Raise RuntimeError unless the first losses of both sides agree."""
    both = zip(ours.losses, bare.losses, strict=True)
    if not all(math.isclose(a, b, rel_tol=LOSS_TOLERANCE) for a, b in both):
        raise RuntimeError(f"{cell}: not the same training: losses {ours.losses} and {bare.losses}")


def run_bare(spec: RunSpec) -> Sample:
    launched_ns = time.monotonic_ns()
    done = subprocess.run(
        bare_command(spec, spec.warmup_steps + spec.steps),
        env=bare_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    returned_ns = time.monotonic_ns()
    if done.returncode:
        raise RuntimeError(f"bare.py {spec.strategy}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    ranks = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[{")))
    return Sample.of(
        launched_ns, returned_ns, [rank["step_end_ns"] for rank in ranks], ranks[0]["losses"], spec.warmup_steps
    )


def bare_command(spec: RunSpec, steps: int) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={spec.world_size}"]
    script = [str(BARE), f"--strategy={spec.strategy}", f"--size={spec.size}", f"--micro-batch={spec.micro_batch}"]
    return [*torchrun, *script, f"--precision={spec.precision}", f"--steps={steps}", f"--seed={spec.seed}"]


def bare_environment() -> dict[str, str]:
    """Loopback for gloo and glibc's thresholds as in scalebench, and one thread from the start as an expert would."""
    own = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    kept = {"MALLOC_TRIM_THRESHOLD_": KEPT_AT_THE_END_BYTES, "MALLOC_MMAP_THRESHOLD_": KEPT_BLOCK_BYTES}
    return dict(os.environ) | own | {name: str(size) for name, size in kept.items()}
