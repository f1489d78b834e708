"""From questions to answers: rules ask, trials answer, and what was found becomes the cells to measure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from scalebench import workloads
from scalebench.harness.runner import unsupported_reason
from scalebench.matrix import Request, Search
from scalebench.search.question import Question, depths, micro_batches, sizes
from scalebench.search.rule import Edge, candidates, compare, find_edge, follow
from scalebench.search.start import first_to_try
from scalebench.search.trials import Trials
from scalebench.spec import RunSpec


def carry_out(search: Search, specs: Sequence[RunSpec], request: Request, trials: Trials) -> list[RunSpec]:
    """The cells to measure: `specs` with what was left open found, and for `batch` their own best beside them.

    Raises KeyboardInterrupt when a person stops it.
    """
    if search == "size":
        asked = set((request.set or {}).get("workload", {}))
        return [largest_cell(spec, trials, asked) for spec in specs]
    if search == "micro_batch":
        return [fastest_cell(spec, trials) for spec in specs]
    ways = (False, True) if request.activation_checkpointing is None else ()
    return list(dict.fromkeys([*specs, *(fastest_cell(spec, trials, ways) for spec in specs)]))


def fastest_cell(spec: RunSpec, trials: Trials, checkpointing: Sequence[bool] = ()) -> RunSpec:
    """`spec` at its fastest micro-batch, with the fastest of the ways of `checkpointing` (its own when empty).

    Where nothing fits, or the cell is not supported, at the smallest micro-batch: a run of it will say why.
    """
    ways = checkpointing or (spec.activation_checkpointing,)
    samples = samples_of(spec)
    questions = [micro_batches(spec.model_copy(update={"activation_checkpointing": way}), samples) for way in ways]
    rates: dict[RunSpec, float] = {}
    for question in questions:
        if unsupported_reason(question.smallest) is None:
            rates |= throughputs(question, trials)
    return max(rates, key=lambda cell: rates[cell]) if rates else questions[0].smallest


def throughputs(question: Question, trials: Trials) -> dict[RunSpec, float]:
    """Items per second of the cells that are compared; none where nothing fits.

    A micro-batch that fits a few steps and no more is not the edge: it is looked for again.
    """
    while True:
        largest = edge(question, trials).largest
        if largest is None:
            return {}
        compared = compare(candidates(question.values, largest))
        rates = follow(compared, lambda value: trials.throughput(question, value))
        if trials.fits(question, largest):
            return {question.cell(value): rate for value, rate in rates.items()}


def largest_cell(spec: RunSpec, trials: Trials, asked: Collection[str]) -> RunSpec:
    """The largest of the workload's sizes, with the options that were `asked`, and of its width the deepest model.

    Not deeper where a depth was asked, or the workload has none to choose. Where nothing fits, or the cell is not
    supported, the smallest size.
    """
    named = sizes(spec, {option: spec.workload_options[option] for option in asked})
    found = edge(named, trials).largest if unsupported_reason(named.smallest) is None else None
    if found is None:
        return named.smallest
    largest = named.cell(found)
    depth = workloads.depth_option(spec.workload)
    if depth is None or depth in asked:
        return largest
    deeper = depths(largest, depth, named)
    deepest = edge(deeper, trials).largest
    return largest if deepest is None else deeper.cell(deepest)


def edge(question: Question, trials: Trials) -> Edge:
    """What fits and what does not, found by trials that begin where theory expects it."""
    rule = find_edge(question.values, first_to_try(question))
    return follow(rule, lambda value: trials.fits(question, value))


def samples_of(spec: RunSpec) -> int:
    """Samples that the data of `spec` holds."""
    return len(workloads.create(spec.workload, spec.size, spec.workload_options).samples(spec.data, spec.seed))
