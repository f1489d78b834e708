"""`scalebench explain`: what limits a cell, with the evidence and the flag to try, from records alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalebench.errors import UserError

if TYPE_CHECKING:
    from scalebench.analysis.cells import Cell
    from scalebench.records.probe import Probe
    from scalebench.reporting.experiments import Experiment

    Placed = tuple[Experiment, Cell]

FILLERS = {"on", "gpu", "gpus", "process", "processes", "rank", "ranks"}
"""Words of the tables that tell no cell from another."""


@click.command()
@click.argument("words", nargs=-1, metavar="[CELL]...")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    metavar="DIR",
    help="Folder of records.",
)
def explain(words: tuple[str, ...], results: Path) -> None:
    """Say what limits a cell: the causes of lost time, the evidence, and the flag to try.

    CELL is what the tables say of it, in any order and as much as is needed, as in `scalebench explain fsdp 2 bf16`; or
    the file of a record. Several cells get a sentence each; without CELL all of them do.
    """
    from scalebench.records.store import load_records
    from scalebench.reporting.bottleneck import explanation
    from scalebench.reporting.experiments import experiments

    files = [Path(word) for word in words if word.endswith(".json")]
    loaded = [load_records(file) for file in files] or [load_records(results)]
    probes = _probes(results)
    records = [record for each in loaded for record in each.records]
    placed = [(experiment, cell) for experiment in experiments(records) for cell in experiment.cells]
    chosen = matching(placed, [word for word in words if not word.endswith(".json")])
    for line in explanation(*chosen[0], probes) if len(chosen) == 1 else several(chosen, probes):
        click.echo(line)


def several(chosen: Sequence[Placed], probes: Sequence[Probe]) -> Iterator[str]:
    """A line per cell, under the title of its experiment."""
    from scalebench.reporting.bottleneck import in_one_line

    for experiment, group in groupby(chosen, key=lambda placed: placed[0]):
        yield f"{experiment.title}:"
        yield from (f"  {in_one_line(experiment, cell, probes)}" for _, cell in group)


def matching(placed: Sequence[Placed], words: Sequence[str]) -> list[Placed]:
    """The cells that all of `words` are said of. Raises UserError, listing what there is, when there is none."""
    from scalebench.reporting.bottleneck import named

    asked = {word.strip(",:").lower() for word in words} - FILLERS
    chosen = [(experiment, cell) for experiment, cell in placed if asked <= said_of(experiment, cell)]
    if chosen:
        return chosen
    if not placed:
        raise UserError("there are no runs to explain. Measure first: scalebench run, or give --results DIR")
    there_are = "; ".join(dict.fromkeys(named(experiment, cell) for experiment, cell in placed))
    raise UserError(f"no cell is '{' '.join(words)}'. There are: {there_are}. Type, for example: {example(placed[0])}")


def said_of(experiment: Experiment, cell: Cell) -> set[str]:
    """Every word by which a person may call a cell, in lower case."""
    spec = cell.spec
    words = {spec.strategy, *experiment.names[cell].replace("(", "").replace(")", "").replace(",", "").split()}
    words |= {str(spec.world_size), f"{spec.world_size}x{spec.device}", spec.device, spec.precision, cell.precision}
    words |= {
        spec.workload,
        spec.size,
        spec.data,
        spec.label,
        spec.cell_id,
        *(record.session for record in cell.records),
    }
    return {word.lower() for word in words}


def example(placed: Placed) -> str:
    """A command that would find something."""
    spec = placed[1].spec
    return f"scalebench explain {spec.strategy} {spec.world_size} {placed[1].precision}"


def _probes(results: Path) -> list[Probe]:
    from scalebench.records.store import load_records

    return load_records(results).probes if results.exists() else []
