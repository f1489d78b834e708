"""Two ways to run the same steps in turn, in blocks, inside the same fresh processes: what does the one cost more?

Above all scalebench's step and loop against the bare script's. What differs from process to process (where memory lies,
what else the machine does in those seconds) hits both sides alike and cancels from their ratio, so that far fewer steps
resolve it than pairs of processes need. Blocks follow each other as A B B A, so that a drift cancels too. Sound for all
that a rank does between two marks: batches, strategy and loop. Blind to what lies outside the rank, the launcher that
waits and polls, and to what two models in one process share, their caches above all; pairs of fresh processes see the
former and are free of the latter. The figure of a launch is the median of the ratios of its A B B A quadruples, as the
machine may disturb some; replicates are launches.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

from pydantic import BaseModel

from scalebench import data, strategies, workloads
from scalebench.harness.loop import collection_paused, run_steps
from scalebench.harness.placement import Place, barrier, process_group, take_place
from scalebench.meters.clock import HostClock
from scalebench.records.environment import collect
from scalebench.spec import RunSpec
from scalebench.strategies.base import Batch, TrainStep
from tests.benchmarks import bare, tables
from tests.benchmarks.pairs import Cell

BLOCK_STEPS = 5
WARMUP_BLOCKS = 2
ORDER = ("tested", "reference", "reference", "tested")

Span = tuple[int, int]
"""Start and end of one block on one rank, CLOCK_MONOTONIC in ns."""
Block = Callable[[], Span]
Build = Callable[[RunSpec, Place, int], dict[str, Block]]
"""Makes both sides, `tested` and `reference`, in a rank; blocks have the given number of steps."""


class Launch(BaseModel):
    """The blocks of one launch of one cell: seconds per step of each block of either side, in their order."""

    cell: Cell
    tested: list[float]
    reference: list[float]

    @property
    def ratio(self) -> float:
        """Median over the quadruples of the two tested blocks over the two between them."""
        both = zip(_twos(self.tested), _twos(self.reference), strict=True)
        return median(tested / reference for tested, reference in both)


def _twos(values: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(values[::2], values[1::2], strict=True)]


class Study(BaseModel):
    """What one sitting measured, and where."""

    environment: dict[str, object]
    launches: list[Launch]

    @classmethod
    def read(cls, results: Path) -> Study:
        return cls.model_validate_json((results / "blocks.json").read_bytes())


def measure(
    cells: Sequence[Cell],
    build: Build,
    launches: int,
    steps: int,
    results: Path,
    tell: Callable[[str], None],
    block_steps: int = BLOCK_STEPS,
) -> Study:
    """`launches` launches of each cell with about `steps` steps of each side. All is on disk after each launch."""
    results.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # the fork server imports DeepSpeed, which would look for a GPU
    study = Study(environment=collect(), launches=[])
    for number in range(launches):
        for cell in cells:
            tell(f"launch {number + 1} of {launches}: {cell.strategy} on {cell.ranks}")
            study.launches.append(launch(cell, build, steps, block_steps))
            (results / "blocks.json").write_text(study.model_dump_json(indent=1) + "\n")
    return study


def launch(cell: Cell, build: Build, steps: int, block_steps: int) -> Launch:
    """Fresh processes, one for each rank, forked from a server that has imported everything."""
    rounds = max(1, round(steps / block_steps / 2))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scalebench.harness.preload", "scalebench.harness.preload_deepspeed", __name__])
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(cell.ranks, context) as pool:
        work = partial(rank_main, cell.spec(1, 1), build, block_steps, rounds, folder)
        spans = list(pool.map(work, range(cell.ranks)))
    sides = ORDER * rounds
    seconds = [job_seconds(block) / block_steps for block in zip(*spans, strict=True)]
    chosen = {side: [s for s, of in zip(seconds, sides, strict=True) if of == side] for side in set(ORDER)}
    return Launch(cell=cell, **chosen)


def job_seconds(ranks: Sequence[Span]) -> float:
    """Seconds of one block of the whole job: from the last rank's start to the last rank's end."""
    return (max(end for _, end in ranks) - max(start for start, _ in ranks)) / 1e9


def rank_main(spec: RunSpec, build: Build, block_steps: int, rounds: int, folder: str, rank: int) -> list[Span]:
    """One rank: both sides built in the same process group, then their blocks in turn."""
    warnings.simplefilter("ignore", FutureWarning)  # of torch, about what DeepSpeed calls
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(spec.world_size))
    place = take_place(spec)
    with process_group(spec, place, Path(folder), needed=spec.strategy != "single"):
        return alternate(build(spec, place, block_steps), rounds)


def alternate(blocks: Mapping[str, Block], rounds: int) -> list[Span]:
    for block in [*blocks.values()] * WARMUP_BLOCKS:
        block()
    return [blocks[side]() for side in ORDER * rounds]


def both_loops(spec: RunSpec, place: Place, steps: int) -> dict[str, Block]:
    """scalebench's step and loop, and the bare script's."""
    return {"tested": scalebench_block(spec, place, steps), "reference": bare_block(spec, place, steps)}


def scalebench_block(spec: RunSpec, place: Place, steps: int) -> Block:
    step, batches = prepared(spec, place)

    def block() -> Span:
        timeline = run_steps(step, batches, steps, HostClock(), ready=partial(barrier, place.device))
        return timeline.start_ns, timeline.step_end_ns[-1]

    return block


def prepared(spec: RunSpec, place: Place) -> tuple[TrainStep, Iterator[Sequence[Batch]]]:
    """scalebench's step and its batches."""
    workload = workloads.create(spec.workload, spec.size)
    batches = data.loader(
        workload.samples(spec.data, spec.seed),
        micro_batch=spec.micro_batch,
        rank=place.rank,
        world_size=place.world_size,
        seed=spec.seed,
        device=place.device,
    )
    return strategies.create(spec.strategy).prepare(workload, spec.train_config(), place.device), batches


def bare_block(spec: RunSpec, place: Place, steps: int) -> Block:
    train = bare.prepare(spec.strategy, spec.size, spec.seed)
    batches = bare.make_batches(spec.size, spec.micro_batch, spec.seed, place.rank, place.world_size)

    def block() -> Span:
        with collection_paused():
            barrier(place.device)
            start_ns = time.monotonic_ns()
            _, ends = bare.loop(train, batches, steps)
            return start_ns, ends[-1]

    return block


def table(launches: Sequence[Launch], reference: str, tested: str, target: Callable[[Cell], float]) -> str:
    """The ratios of the launches of each cell, averaged as those of fresh processes are; two names for the columns."""
    rows = []
    for cell in dict.fromkeys(launch.cell for launch in launches):
        group = [launch for launch in launches if launch.cell == cell]
        typical = [median(median(side) for side in sides) * 1e3 for sides in zip(*map(_sides, group), strict=True)]
        rows.append(tables.ratio_row(cell, *typical, [launch.ratio for launch in group], target(cell)))
    return tables.markdown(tables.ratio_header(f"step, {reference} (ms)", f"step, {tested} (ms)", "launches"), rows)


def _sides(launch: Launch) -> tuple[list[float], list[float]]:
    return launch.reference, launch.tested
