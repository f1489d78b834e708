"""Is a run beside a busy program flagged, and a quiet one not?

    python -m tests.benchmarks.competing_load

Fresh runs at each number of ranks, in random order: half of them with one process beside that does nothing but
compute, started before the run and ended after it. On a quiet machine; 59 flags in 59 runs say that at least 95% are
flagged, with 95% confidence (0.95^59 < 0.05).
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from scalebench.analysis.instability import instabilities
from scalebench.analysis.steps import foreign_cpu_cores
from scalebench.harness.runner import execute
from scalebench.records.record import Record
from scalebench.spec import PlannedRun, RunSpec
from tests.benchmarks.harness_cost import report
from tests.benchmarks.pairs import Cell, Facts
from tests.benchmarks.tables import markdown

MAX_SECONDS = 1.0
"""Of warm-up and window of each run: less than a person would allow, so that less is there to be seen."""


class Seen(Facts):
    """One run: how many ranks, whether a busy program ran beside it, what was made of it."""

    ranks: int
    loaded: bool
    flagged: bool
    foreign_cores: float | None


class Study(Facts):
    runs: list[Seen]


class Neighbour:
    """Watches a session and keeps a core busy during some of its runs."""

    def __init__(self, loaded: Sequence[bool], path: Path) -> None:
        self.seen: list[Seen] = []
        self._loaded, self._path = loaded, path
        self._busy: subprocess.Popen[bytes] | None = None

    def session_started(self, runs: Sequence[PlannedRun]) -> None: ...
    def phase(self, index: int, phase: str) -> None: ...

    def run_started(self, index: int, run: PlannedRun) -> None:
        if self._loaded[index]:
            self._busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    def run_ended(self, index: int, record: Record, path: Path) -> None:
        self.end()
        seen = Seen(
            ranks=record.spec.world_size,
            loaded=self._loaded[index],
            flagged=any(one.kind == "CPU taken by others" for one in instabilities(record)),
            foreign_cores=foreign_cpu_cores(record),
        )
        self.seen.append(seen)
        self._path.write_text(Study(runs=self.seen).model_dump_json(indent=1) + "\n")
        report(f"{index + 1} of {len(self._loaded)}: {seen}")

    def end(self) -> None:
        if self._busy:
            self._busy.kill()
            self._busy.wait()
            self._busy = None


def planned(ranks: Sequence[int], runs: int, seed: int) -> list[tuple[PlannedRun, bool]]:
    """`runs` with and as many without a load, for each number of ranks, in random order."""
    pacing = {"warmup_steps": None, "steps": None, "target_precision": 0.02, "max_seconds": MAX_SECONDS}
    cells = [Cell(strategy="ddp", ranks=count).spec(1, 1) for count in ranks]
    specs = [RunSpec.model_validate(spec.model_dump() | pacing) for spec in cells]
    everything = [
        (PlannedRun(spec=spec, repeat=2 * number + loaded), loaded)
        for spec in specs
        for number in range(runs)
        for loaded in (False, True)
    ]
    return random.Random(seed).sample(everything, len(everything))


def table(runs: Sequence[Seen]) -> str:
    """How many of each kind were flagged, and what others used: median, least and most cores."""
    rows = []
    for ranks, loaded in sorted({(one.ranks, one.loaded) for one in runs}):
        group = [one for one in runs if (one.ranks, one.loaded) == (ranks, loaded)]
        cores = [one.foreign_cores for one in group if one.foreign_cores is not None]
        shown = f"{np.median(cores):.2f} ({min(cores):.2f} to {max(cores):.2f})" if cores else "n/a"
        flagged = f"{sum(one.flagged for one in group)} of {len(group)}"
        rows.append([str(ranks), "busy program" if loaded else "none", flagged, shown])
    return markdown(["ranks", "beside", "flagged", "cores of others"], rows)


@click.command(help=__doc__)
@click.option("--runs", default=59, show_default=True, help="Of each kind at each number of ranks.")
@click.option("--ranks", default="1,2", show_default=True, metavar="N,...")
@click.option("--seed", default=0, show_default=True, help="Of the order of runs.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/competing-load"), show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing; print the table of the facts in --results.")
def main(runs: int, ranks: str, seed: int, results: Path, show: bool) -> None:
    path = results / "competing-load.json"
    if not show:
        results.mkdir(parents=True, exist_ok=True)
        order = planned([int(count) for count in ranks.split(",")], runs, seed)
        neighbour = Neighbour([loaded for _, loaded in order], path)
        try:
            execute([run for run, _ in order], results=results / "records", progress=neighbour)
        finally:
            neighbour.end()
    print(table(Study.model_validate_json(path.read_bytes()).runs))


if __name__ == "__main__":
    main()
