"""What a framework costs over the raw backend: the step of DDP run by Lightning's Fabric, by Accelerate, by Lightning's
Trainer and by a script of one's own, over that of `ddp`.

\b
    python -m tests.benchmarks.framework_cost           # at a step of about 10 ms and of about 100 ms
    python -m tests.benchmarks.framework_cost --show    # the tables of what was measured so far

Every variant once per block, in random order, each in fresh processes. Records go to --results; a study that was
stopped goes on with the blocks that are not whole.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click

from scalebench import strategies
from scalebench.analysis.cells import items_per_second
from scalebench.analysis.steps import foreign_cpu_cores
from scalebench.harness.runner import execute
from scalebench.records.record import Record
from scalebench.records.store import load_records
from scalebench.spec import PlannedRun, RunSpec
from scalebench.stats.intervals import geometric_mean
from tests.benchmarks.pairs import ROOT, TIMEOUT_SECONDS, bare_environment
from tests.benchmarks.tables import BUSY_CORES, markdown

RAW = "ddp"
OURS = (RAW, "lightning_ddp", "accelerate_ddp")
OTHERS = {"script": "script", "lightning_trainer": "trainer"}
"""Loops that are not scalebench's, by the names of their records: what framework_scripts.py calls them."""
VARIANTS = (*OURS, *OTHERS)
STEPS: dict[str, dict[str, Any]] = {
    "10 ms": {"steps": 200, "workload_options": {}},
    "100 ms": {
        "steps": 40,
        "workload_options": {"num_layers": 4, "hidden_size": 256, "num_heads": 4, "context_length": 128},
    },
}
"""Lengths of the step by their names, about, on one core: the model's shape and the steps that are timed."""

FIRST = 10_000
"""The repeat of runs that are of no block."""

Block = tuple[str, int, str]
"""A length of the step, the number of the block and its session."""


def spec(length: str, strategy: str, ranks: int) -> RunSpec:
    """What one variant runs."""
    return RunSpec(
        workload="gpt",
        size="tiny",
        data="synthetic",
        strategy=strategy,
        grad_sync=strategies.default_grad_sync(RAW),
        device="cpu",
        world_size=ranks,
        threads_per_rank=1,
        cores_per_rank=1,
        micro_batch=4,
        warmup_steps=20,
        diagnostics=False,
        **STEPS[length],
    )


def missing(blocks: Iterable[Block], rounds: int, seed: int, ranks: int) -> Iterator[PlannedRun]:
    """The runs of the blocks that are not whole yet: lengths in turn, variants in random order."""
    whole = {(length, number) for length, number, _ in blocks}
    for number in range(rounds):
        chance = random.Random(f"{seed} {number}")
        for length in STEPS:
            if (length, number) not in whole:
                for strategy in chance.sample(VARIANTS, len(VARIANTS)):
                    yield PlannedRun(spec=spec(length, strategy, ranks), repeat=number)


def whole_blocks(records: Iterable[Record], ranks: int) -> dict[Block, dict[str, Record]]:
    """The records of each block that has them all, by strategy. A block is of one session."""
    lengths = {spec(length, name, ranks).cell_id: length for length in STEPS for name in VARIANTS}
    found: dict[Block, dict[str, Record]] = {}
    for record in records:
        if record.status == "ok" and record.spec.cell_id in lengths:
            block = (lengths[record.spec.cell_id], record.repeat, record.session)
            found.setdefault(block, {})[record.spec.strategy] = record
    return {block: of for block, of in found.items() if len(of) == len(VARIANTS)}


def step_seconds(record: Record) -> float:
    """Time of the window over its steps."""
    rate = items_per_second(record)
    assert rate is not None, "an ok run has a window"
    assert record.workload is not None
    return record.spec.global_batch * record.workload.items_per_sample / rate


def cost_rows(blocks: Sequence[dict[str, Record]], length: str) -> Iterator[list[str]]:
    """A row per variant: its step, and its ratio to the raw backend's of the same block with the 95% interval."""
    for strategy in VARIANTS:
        own = [step_seconds(block[strategy]) for block in blocks]
        raw = [step_seconds(block[RAW]) for block in blocks]
        ratio = geometric_mean([a / b for a, b in zip(own, raw, strict=True)])
        interval = "n/a" if ratio.low is None else f"{ratio.low:.3f} – {ratio.high:.3f}"
        added = median(a - b for a, b in zip(own, raw, strict=True))
        compared = ["–", "–", "–"] if strategy == RAW else [f"{ratio.value:.3f}", interval, f"{added * 1e3:+.2f}"]
        yield [length, strategy, str(len(blocks)), f"{median(own) * 1e3:.3g}", *compared]


def cost_table(blocks: dict[Block, dict[str, Record]]) -> str:
    """All lengths of the step. Intervals are Student's t on the logarithms of one ratio per block."""
    rows: list[list[str]] = []
    for length in STEPS:
        of_length = [records for block, records in blocks.items() if block[0] == length]
        rows += cost_rows(of_length, length) if of_length else []
    heads = ["step", "variant", "blocks", "step, ms", "ratio to ddp", "95% interval", "added, ms (median)"]
    return markdown(heads, rows)


def quietness(blocks: dict[Block, dict[str, Record]]) -> str:
    """A line about the machine: what others took of it in the windows."""
    loads = [foreign_cpu_cores(record) for block in blocks.values() for record in block.values()]
    known = [load for load in loads if load is not None]
    if not known:
        return "Load of others in the windows: n/a."
    caution = "" if median(known) <= BUSY_CORES else " Too busy for any verdict."
    return f"Load of others in the windows: median {median(known):.2f}, most {max(known):.2f} cores.{caution}"


class Interleaved:
    """Runs what is planned in its order: scalebench's runs in one session, and between them the loops of others.

    A first run of each length of the step is of no block: it lets the session's fork server import everything, and from
    its record the others take what they train.
    """

    def __init__(self, planned: Sequence[PlannedRun], results: Path) -> None:
        self._left, self._results = list(planned), results
        self._like: dict[str, Path] = {}
        self._session = ""

    def run(self) -> None:
        lengths = {run.spec.model_copy(update={"strategy": RAW}): run for run in self._left}
        firsts = [PlannedRun(spec=spec, repeat=FIRST) for spec in lengths]
        self._left = [*firsts, *self._left]
        execute([run for run in self._left if run.spec.strategy in OURS], results=self._results, progress=self)
        self._others()

    def session_started(self, runs: Sequence[PlannedRun]) -> None: ...
    def phase(self, index: int, phase: str) -> None: ...

    def run_started(self, index: int, run: PlannedRun) -> None:
        self._others()
        assert self._left.pop(0) == run
        tell(run)

    def run_ended(self, index: int, record: Record, path: Path) -> None:
        if record.status != "ok":
            raise RuntimeError(f"{record.spec.label}: {record.status}: {record.reason}")
        self._session = record.session
        if record.repeat == FIRST:
            self._like[shape(record.spec)] = path

    def _others(self) -> None:
        """The loops of others that come next."""
        while self._left and self._left[0].spec.strategy in OTHERS:
            run = self._left.pop(0)
            tell(run)
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            script = ["-m", "tests.benchmarks.framework_scripts", OTHERS[run.spec.strategy]]
            recorded = {"like": self._like[shape(run.spec)], "results": self._results, "session": self._session}
            options = [f"--{name}={value}" for name, value in {**recorded, "repeat": run.repeat}.items()]
            command = [*torchrun, f"--nproc-per-node={run.spec.world_size}", *script, *options]
            done = subprocess.run(
                command, env=bare_environment(), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
            )
            if done.returncode:
                raise RuntimeError(f"{run.spec.label}: exit code {done.returncode}\n{done.stderr[-2000:]}")


def shape(spec: RunSpec) -> str:
    """What tells one length of the step from another."""
    return str(sorted(spec.workload_options.items()))


def tell(run: PlannedRun) -> None:
    click.echo(f"block {run.repeat}: {run.spec.strategy}", err=True)


@click.command(help=__doc__)
@click.option("--ranks", default=1, show_default=True, help="Processes of each run.")
@click.option("--rounds", default=10, show_default=True, help="Blocks of each length of the step.")
@click.option("--seed", default=0, show_default=True, help="Of the order of runs.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/framework-cost"), show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing; print the table of what is in --results.")
def main(ranks: int, rounds: int, seed: int, results: Path, show: bool) -> None:
    blocks = whole_blocks(load_records(results).records if results.exists() else [], ranks)
    runs = [] if show else list(missing(blocks, rounds, seed, ranks))
    if runs:
        Interleaved(runs, results.absolute()).run()
        blocks = whole_blocks(load_records(results).records, ranks)
    print(cost_table(blocks), quietness(blocks), sep="\n\n")


if __name__ == "__main__":
    main()
