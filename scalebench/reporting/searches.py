"""What searches found, in words and as a table: the largest that fits, the first that does not and why, the fastest."""

from __future__ import annotations

from collections.abc import Iterable

from scalebench.analysis.trials import Searched, searches, throughput, value_of
from scalebench.records.record import Record

from .experiments import rank_word
from .table import RANK_WORDS, Table, table
from .text import UNKNOWN, figure, listing, plural, size, with_interval

NOTE = (
    "Every value was tried by short runs of all ranks, which are no measurements: throughput is of one run each, its "
    "interval within that run. Fastest: by that estimate."
)


def findings(records: Iterable[Record]) -> list[str]:
    """A line per search among `records`."""
    return [finding(searched) for searched in searches(records)]


def finding(searched: Searched) -> str:
    """`fsdp on 2 processes, fp32: micro-batch 37 is the largest that fits (38: out of memory ...); ...`."""
    spec = searched.spec
    ways = ", activation checkpointing" if spec.activation_checkpointing else ""
    whole = f", global batch {spec.global_batch}" if spec.scaling == "strong" else ""
    place = f"{spec.strategy} on {plural(spec.world_size, rank_word(spec))}, {spec.precision}{whole}{ways}"
    return f"{place}: {_edge(searched)}{_fastest(searched)}; {plural(len(searched.trials), 'trial')}"


def search_table(records: Iterable[Record]) -> Table | None:
    """A row per search among `records`."""
    return table("Searches", [_row(searched) for searched in searches(records)], [NOTE])


def named(trial: Record) -> str:
    """`micro-batch 37`, `tiny (410,112 parameters)`."""
    if trial.trial and trial.trial.sought == "micro_batch":
        return f"micro-batch {value_of(trial)}"
    return f"{trial.spec.size} ({value_of(trial):,} parameters)"


def ending(trial: Record) -> str:
    """`fits`, its throughput if it was timed, or why it does not: `oom: 8 MiB asked, 5 MiB free`."""
    if trial.status == "ok":
        timed = throughput(trial) if trial.spec.steps is None and trial.workload else None
        return f"fits, {figure(timed.value)} {trial.workload.item}s/s" if timed and trial.workload else "fits"
    shortage = trial.error.shortage if trial.error else None
    if shortage is None or shortage.asked is None:
        return f"{trial.status}: {trial.reason}"
    free = f", {size(shortage.free)} free" if shortage.free is not None else ""
    return f"{trial.status}: {size(shortage.asked)} asked{free}"


def _edge(searched: Searched) -> str:
    largest, refused = searched.largest, searched.refused
    why = f"{named(refused)}: {ending(refused)}" if refused else ""
    if largest is None:
        return f"nothing fits ({why})"
    return f"{named(largest)} is the largest that fits ({why or 'nothing larger was left to try'})"


def _fastest(searched: Searched) -> str:
    fastest = searched.fastest
    if fastest is None or fastest.workload is None:
        return ""
    untold = [str(value_of(trial)) for trial in searched.untold]
    doubt = f", not told apart from {listing(untold)}" if untold else ""
    rate = f"{with_interval(throughput(fastest))} {fastest.workload.item}s/s"
    return f"; {value_of(fastest)} is the fastest of {len(searched.timed)} compared{doubt}: {rate}"


def _row(searched: Searched) -> dict[str, str]:
    spec, largest, refused, fastest = searched.spec, searched.largest, searched.refused, searched.fastest
    return {
        RANK_WORDS[0 if spec.device == "cuda" else 1]: str(spec.world_size),
        "precision": spec.precision,
        "strategy": spec.strategy,
        "checkpointing": "yes" if spec.activation_checkpointing else "no",
        "global batch": str(spec.global_batch) if spec.scaling == "strong" else UNKNOWN,
        "largest that fits": named(largest) if largest else "nothing",
        "does not": named(refused) if refused else UNKNOWN,
        "because": ending(refused) if refused else UNKNOWN,
        "fastest": named(fastest) if fastest else UNKNOWN,
        "items/s": with_interval(throughput(fastest)) if fastest else UNKNOWN,
        "trials": str(len(searched.trials)),
    }
