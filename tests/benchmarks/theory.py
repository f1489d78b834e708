"""How near the formulas come to what backends do: the tables of docs/theory.md, each cell run anew.

    python -m tests.benchmarks.theory payload --ranks 2
    python -m tests.benchmarks.theory memory --ranks 4
    python -m tests.benchmarks.theory wire --ranks 2
    python -m tests.benchmarks.theory flops

`wire` makes network namespaces, for which it must be root on Linux.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from scalebench import workloads
from scalebench.scheme import model_of, scheme_of
from scalebench.spec import RunSpec
from scalebench.theory.communication import traffic, wire_bytes
from tests.distributed.cells import LARGE, OPTION_SETS, cell
from tests.distributed.hosts import namespaces, sent_per_step
from tests.distributed.ranks import run_ranks
from tests.distributed.test_communication import Found, observed
from tests.distributed.test_communication import expected as expected_calls
from tests.distributed.test_memory import expected as expected_memory
from tests.distributed.test_memory import gpt, measured
from tests.unit.test_flops import SHAPES, counted

Options = Mapping[str, Any]

ACCUMULATIONS = (1, 4)
WIRE = ("ddp", "fsdp", "fsdp1", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
MEMORY = ("ddp", "fsdp", "fsdp1", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
HELD = ("parameters", "optimizer_state", "gradients", "tensor_peak")


def payload(ranks: int, only: str) -> Iterator[Sequence[object]]:
    """Collectives and their payload in one step of 11.6 million parameters."""
    yield "strategy", "options", "accumulation", "ranks", "collectives", "formula", "payload", "formula", "ratio"
    for strategy, options in (item for item in OPTION_SETS if only in item[0]):
        specs = [cell(strategy, ranks, options, LARGE, accumulation=each) for each in ACCUMULATIONS]
        for spec, seen in zip(specs, run_ranks(observed, ranks, specs)[0], strict=True):
            (count, sent), (said_count, said) = map(together, (seen, expected_calls(spec)))
            yield strategy, told(options), spec.accumulation, ranks, count, said_count, sent, said, f"{sent / said:.4f}"


def together(found: Found) -> list[int]:
    """Collectives of all kinds, and their payload."""
    return [sum(column) for column in zip(*found.values(), strict=True)]


def memory(ranks: int, only: str) -> Iterator[Sequence[object]]:
    """Bytes by category on rank 0, measured over formula, of 669 thousand parameters."""
    yield "strategy", "precision", "ranks", "parameters", "optimizer state", "gradients", "peak of tensors"
    names = [name for name in MEMORY if only in name]
    specs = [gpt(name, ranks, precision=precision) for name in names for precision in ("fp32", "bf16")]
    for spec, found in zip(specs, run_ranks(measured, ranks, specs)[0], strict=True):
        said = expected_memory(spec)
        formula = (said.parameters, said.optimizer_state, said.gradients, said.peak)
        ratios = (f"{found[name] / figure:.4f}" for name, figure in zip(HELD, formula, strict=True) if figure)
        yield spec.strategy, spec.precision, ranks, *ratios


def wire(ranks: int, only: str) -> Iterator[Sequence[object]]:
    """Bytes that a host's interface sent per step, one rank on each, over the formula's: headers are on top."""
    yield "strategy", "accumulation", "ranks", "sent per step", "formula", "ratio"
    specs = [cell(n, ranks, shape=LARGE, accumulation=each) for n in WIRE if only in n for each in ACCUMULATIONS]
    with namespaces(ranks) as hosts, tempfile.TemporaryDirectory() as folder:
        sent = sent_per_step(hosts, [spec.model_dump_json() for spec in specs], Path(folder))
    for spec, by_rank in zip(specs, zip(*sent, strict=True), strict=True):
        seen, said = sum(by_rank) / ranks, wire_formula(spec)
        yield spec.strategy, spec.accumulation, ranks, f"{seen:.0f}", f"{said:.0f}", f"{seen / said:.4f}"


def wire_formula(spec: RunSpec) -> float:
    model = model_of(workloads.create(spec.workload, spec.size, spec.workload_options))
    scheme = scheme_of(spec, model)
    assert scheme is not None
    return wire_bytes(traffic(model, scheme), scheme.backend)


def flops(ranks: int, only: str) -> Iterator[Sequence[object]]:
    """FLOPs by torch's counter over the formula's, on the meta device."""
    yield "workload", "size", "options", "checkpointing", "counted", "formula", "ratio"
    for (name, size, options, batch), again in itertools.product(SHAPES, (False, True)):
        workload = workloads.create(name, size, options)
        said = batch * (workload.flops_per_sample() + again * (workload.recomputed_flops_per_sample() or 0))
        seen = counted(workload, batch, checkpointing=again)
        yield name, size, told(options), again, f"{seen:.4g}", f"{said:.4g}", f"{seen / said:.4f}"


def told(options: Options) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "defaults"


def markdown(rows: Iterable[Sequence[object]]) -> str:
    heads, *body = [list(map(str, row)) for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *body))


STUDIES = {"payload": payload, "memory": memory, "wire": wire, "flops": flops}


@click.command(help=__doc__)
@click.argument("study", type=click.Choice(list(STUDIES)))
@click.option("--ranks", default=2, show_default=True)
@click.option("--only", default="", metavar="TEXT", help="Strategies whose names have this in them.")
def main(study: str, ranks: int, only: str) -> None:
    print(markdown(STUDIES[study](ranks, only)))


if __name__ == "__main__":
    main()
