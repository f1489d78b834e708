"""`scalebench list`: what can be asked for, without importing torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import click

from scalebench import strategies, workloads
from scalebench.cli.tables import markdown_table, print_table
from scalebench.strategies.config import PRECISION_ALIASES
from scalebench.strategies.precision_table import OF_FRAMEWORKS, PRECISION_TABLE

STRATEGY_HEADS = ("strategy", "what it is", "Lightning", "Accelerate", "raw API")
WORKLOAD_HEADS = ("workload", "size", "parameters", "default micro-batch", "data", "options")
PRECISION_HEADS = (
    *("precision", "strategies", "casting", "parameters", "master", "compute", "gradient reduction"),
    *("optimizer state", "loss scaling", "note", "aliases"),
)


PAGE = """# Strategies, workloads, precisions

Written by `make docs` from the code; `scalebench list` prints the same.

## Strategies

Beside each name stands what Lightning, Accelerate and the libraries themselves call it. Those named `lightning_*` and
`accelerate_*` are run by the frameworks themselves, at the price that a report tells: [frameworks](frameworks.md).

{strategies}

## Precisions

What each word means in each family of strategies, under the profile `matched`. Under `backend-default` fsdp reduces the
gradients of mixed precision in 16 bit, and DeepSpeed does as it ships. What a run really did is observed and recorded.

{frameworks}

{precisions}

## Workloads

Options are set by `--set workload.NAME=VALUE`; what data are is in [data](data.md).

{workloads}
"""


@click.command("list")
@click.argument("what", type=click.Choice(["strategies", "workloads", "precisions"]), default="strategies")
@click.option("--markdown", is_flag=True, help="Print everything as one page of markdown (docs/strategies.md).")
def list_(what: str, markdown: bool) -> None:
    """List what can be measured: strategies (the default), workloads or precisions.

    Strategies stand beside the names that Lightning and Accelerate give them and the API behind them; precisions are
    explained per family of strategies, under the profile `matched`.
    """
    tables = {
        "strategies": (STRATEGY_HEADS, strategy_rows()),
        "workloads": (WORKLOAD_HEADS, workload_rows()),
        "precisions": (PRECISION_HEADS, precision_rows()),
    }
    if markdown:
        pages = {name: markdown_table(*parts) for name, parts in tables.items()}
        click.echo(PAGE.format(**pages, frameworks=OF_FRAMEWORKS), nl=False)
    else:
        print_table(*tables[what])


def strategy_rows() -> Iterator[list[str]]:
    """A row per strategy; n/a where another library has no name for it."""
    for name, entry in strategies.entries().items():
        yield [name, entry.summary, entry.lightning or "n/a", entry.accelerate or "n/a", entry.raw]


def workload_rows() -> Iterator[list[str]]:
    """A row per workload and size, with the kinds of data it reads and the options of `--set workload.NAME=VALUE`."""
    for row in workloads.describe():
        options = ", ".join(f"{name}={value}" for name, value in row.options.items())
        reads = ", ".join(workloads.reads(row.workload))
        yield [row.workload, row.size, f"{row.parameters:,}", str(row.default_micro_batch), reads, options]


def precision_rows() -> Iterator[list[str]]:
    """A row per precision and family of strategies."""
    for meaning in PRECISION_TABLE:
        aliases = [alias for alias, name in PRECISION_ALIASES.items() if name == meaning.precision]
        yield [*(value or "none" for value in dataclasses.astuple(meaning)), ", ".join(aliases) or "none"]
