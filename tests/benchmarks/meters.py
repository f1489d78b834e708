"""What the meters cost the steps they measure: blocks of steps with them and without in turn, in the same processes.

    python -m tests.benchmarks.meters

With: as in a run, the loop with its mark, its times of waiting and its losses, what is read where a window opens and
closes, and the sensors of a GPU (NVIDIA's library, or a stand-in for it) by a thread of each rank, which has begun
before. That is the worst case, a foreign launcher's: under scalebench's own the thread is the launcher's. Without: the
same step and batches in a loop that does nothing else.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path

import click

from scalebench.harness.loop import collection_paused, run_steps
from scalebench.harness.phase import Phase, Pulse
from scalebench.harness.placement import Place, barrier
from scalebench.harness.window import Meters
from scalebench.machine import visible_gpus
from scalebench.meters.clock import HostClock
from scalebench.meters.device import Sampler
from scalebench.spec import RunSpec
from tests.benchmarks import blocks
from tests.benchmarks.blocks import Block, Span
from tests.benchmarks.pairs import Cell

TARGET = 1.02
BLOCK_STEPS = 40
"""Enough for the sensors to be read several times in a block."""
CELLS = "single:1,ddp:2,fsdp:2"
PATIENCE_SECONDS = 1.0


@click.command(help=__doc__)
@click.option("--cells", default=CELLS, show_default=True, metavar="STRATEGY:RANKS,...")
@click.option("--launches", default=5, show_default=True, help="Of fresh ranks, for each cell.")
@click.option("--steps", default=320, show_default=True, help="Of each side in each launch.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/meters"), show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing; print the table of the facts in --results.")
def main(cells: str, launches: int, steps: int, results: Path, show: bool) -> None:
    if not show:
        with tempfile.TemporaryDirectory() as folder:
            provide_gpus(Path(folder))
            chosen = [Cell.parse(text) for text in cells.split(",")]
            blocks.measure(chosen, both_sides, launches, steps, results, partial(click.echo, err=True), BLOCK_STEPS)
    print(blocks.table(blocks.Study.read(results).launches, "without", "with", lambda cell: TARGET))


def provide_gpus(folder: Path) -> None:
    """Let the ranks find the stand-in for NVIDIA's library where there is no GPU."""
    if not visible_gpus():
        from tests.fake_nvml.library import build

        os.environ |= {"LD_LIBRARY_PATH": str(build(folder)), "FAKE_NVML_GPUS": "1"}


def both_sides(spec: RunSpec, place: Place, steps: int) -> dict[str, Block]:
    """Blocks of the very same step and batches, with meters and without."""
    step, batches = blocks.prepared(spec, place)
    phase = Phase(Pulse(place.world_size), place.rank)
    meters, watched = Meters(place=place, phase=phase), phase.beating(batches)

    def metered() -> Span:
        with Sampler(read_by="rank", gpus=True) as sampler:
            await_reading(sampler)
            meters.open()
            timeline = run_steps(step, watched, steps, HostClock(), ready=partial(barrier, place.device))
            meters.close()
        return timeline.start_ns, timeline.end_ns

    def plain() -> Span:
        with collection_paused():
            barrier(place.device)
            start_ns = time.monotonic_ns()
            for _ in range(steps):
                step(next(batches))
            return start_ns, time.monotonic_ns()

    return {"tested": metered, "reference": plain}


def await_reading(sampler: Sampler) -> None:
    """Return once its thread, which first loads its library, has read something or cannot."""
    given_up = time.monotonic() + PATIENCE_SECONDS
    while not any(sensor.time_ns for sensor in sampler.facts()) and time.monotonic() < given_up:
        time.sleep(0.001)


if __name__ == "__main__":
    main()
