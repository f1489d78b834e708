"""How long from the launch to the end of the first step: scalebench from its second run on, against a fresh torchrun.

    python -m tests.benchmarks.startup

Both sides count from the moment before the launch is asked for (for torchrun, before the command is executed) until the
first optimizer step has ended on every rank.
"""

from __future__ import annotations

from pathlib import Path

import click

from tests.benchmarks import pairs, tables
from tests.benchmarks.harness_cost import report

STRATEGIES = ("ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
CELLS = ",".join(["single:1", *(f"{name}:{ranks}" for ranks in (1, 2) for name in STRATEGIES)])


@click.command(help=__doc__)
@click.option("--cells", default=CELLS, show_default=True, metavar="STRATEGY:RANKS,...")
@click.option("--rounds", default=3, show_default=True, help="Pairs of runs of each cell.")
@click.option("--seed", default=0, show_default=True, help="Of the order of runs.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/startup"), show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing; print the tables of the facts in --results.")
def main(cells: str, rounds: int, seed: int, results: Path, show: bool) -> None:
    chosen = [pairs.Cell.parse(text) for text in cells.split(",")]
    if not show:
        pairs.measure(
            chosen, rounds, warmup=1, steps=pairs.COMPARED_LOSSES - 1, seed=seed, results=results, tell=report
        )
    found = pairs.Study.read(results).pairs
    print(tables.startup_table(found), tables.stages_table(found), sep="\n\n", end="\n\n")
    print(tables.quietness(found))


if __name__ == "__main__":
    main()
