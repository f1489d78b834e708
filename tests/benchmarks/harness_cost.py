"""What scalebench's harness costs: its step time against that of a hand-written script under torchrun.

\b
    python -m tests.benchmarks.harness_cost                # fresh-process pairs, and start-up from the same runs
    python -m tests.benchmarks.harness_cost --in-process   # both loops in turn inside the same processes

Writes its raw facts into --results and prints markdown tables; --show prints those of earlier facts again.
"""

from __future__ import annotations

from pathlib import Path

import click

from tests.benchmarks import blocks, pairs, tables
from tests.benchmarks.empty_step import microseconds_per_step

CELLS = "single:1,ddp:1,fsdp:1,deepspeed_stage_2:1,ddp:2,fsdp:2,deepspeed_stage_2:2"


@click.command(help=__doc__)
@click.option("--in-process", is_flag=True, help="Alternate blocks of steps inside the same processes.")
@click.option("--cells", default=CELLS, show_default=True, metavar="STRATEGY:RANKS,...")
@click.option("--rounds", default=5, show_default=True, help="Pairs of runs (in process: launches) of each cell.")
@click.option("--warmup", default=20, show_default=True, help="Steps before the window of a fresh process.")
@click.option("--steps", default=120, show_default=True, help="Steps in the window (in process: of each side).")
@click.option("--seed", default=0, show_default=True, help="Of the order of runs.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/harness-cost"), show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing; print the tables of the facts in --results.")
def main(
    in_process: bool, cells: str, rounds: int, warmup: int, steps: int, seed: int, results: Path, show: bool
) -> None:
    chosen = [pairs.Cell.parse(text) for text in cells.split(",")]
    if in_process:
        if not show:
            blocks.measure(chosen, blocks.both_loops, rounds, steps, results, report)
        print(blocks.table(blocks.Study.read(results).launches, "bare", "scalebench", tables.cost_target))
        return
    if not show:
        print(f"Host time per step with an empty step: {microseconds_per_step():.1f} microseconds (target: 100)\n")
        pairs.measure(chosen, rounds, warmup=warmup, steps=steps, seed=seed, results=results, tell=report)
    found = pairs.Study.read(results).pairs
    print(tables.cost_table(found), tables.startup_table(found), tables.stages_table(found), sep="\n\n", end="\n\n")
    print(tables.quietness(found))


def report(message: str) -> None:
    click.echo(message, err=True)


if __name__ == "__main__":
    main()
