"""What `scalebench run` prints around its runs: what is going to run, what came out, what went wrong and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scalebench import adapters
from scalebench.cli.wording import count, head, place, plain, shared, shown, telling, varying
from scalebench.errors import EXIT_CELL_NOT_OK, EXIT_INTERRUPTED, EXIT_OK
from scalebench.harness.resume import Standing
from scalebench.machine import Machine
from scalebench.records.record import Record
from scalebench.spec import RunSpec

if TYPE_CHECKING:
    from scalebench.analysis.cells import Cell

Finished = Sequence[tuple[Record, Path]]

REMEDIES = {
    "oom": "Use a smaller --micro-batch, --activation-checkpointing, or a strategy that shards more.",
    "timeout": "Raise --timeout, look at each rank with --debug, or at the machine with `scalebench doctor`.",
    "failed": "See the record's error and log; --debug keeps a log per rank, `scalebench doctor` looks at the machine.",
}
NAMED_CELLS = 4
"""As many as a line may name."""
AXES = ("strategy", "world_size", "precision", "micro_batch", "accumulation", "global_batch")
"""What the table of planned cells always shows."""


def describe_plan(specs: Sequence[RunSpec], runs: int, machine: Machine) -> list[str]:
    """The resolved values: those that all cells share, then a row per cell, then what to know before it starts."""
    columns = columns_of(specs)
    rows = _aligned([columns, *(shown(spec, columns) for spec in specs)])
    return [*describe_shared(specs, runs, machine), *rows, *cautions(specs, machine)]


def describe_shared(specs: Sequence[RunSpec], runs: int, machine: Machine) -> list[str]:
    """How many cells and runs there are and where, and the values that all cells share."""
    heading = f"{count(len(specs), 'cell')}, {count(runs, 'run')} in blocks shuffled by seed {specs[0].seed}"
    values = (f"  {name}: {plain(value)}" for name, value in shared(specs) if name not in AXES)
    return [f"{heading}; on {where(machine)}", *values]


def columns_of(specs: Sequence[RunSpec]) -> list[str]:
    """The fields that a table of planned cells shows."""
    return list(dict.fromkeys([*AXES, *varying(specs)]))


def describe_standing(found: Standing, planned: int) -> list[str]:
    """What of a plan of `planned` runs is there already, and how to measure it again all the same."""
    lines = [f"damaged, not counted: {path}: {reason}" for path, reason in found.damaged]
    if not found.recorded:
        return lines
    lines.append(f"resuming: {planned - len(found.left)} of {count(planned, 'run')} are recorded already.")
    if not found.left:
        lines.append("nothing is left to measure; --no-resume measures everything anew.")
    endings = Counter(record.status for record, _ in found.recorded if record.status != "ok")
    if endings:
        listed = ", ".join(f"{count} {status}" for status, count in endings.items())
        lines.append(f"of these {listed}; --retry {','.join(endings)} runs them again.")
    return lines


def where_recorded(finished: Finished) -> str:
    """The folders of the records, the latest first, and what to ask of them."""
    folders = dict.fromkeys(path.parent for _, path in reversed(finished))
    results = next(iter(folders)).parent
    return f"Records: {', '.join(map(str, folders))}\nWhat limits them: scalebench explain --results {results}"


def where(machine: Machine) -> str:
    """The machine in a few words."""
    if machine.device == "cpu":
        return f"{count(machine.cores, 'core')}: no GPU is used, ranks are CPU processes over gloo"
    return f"{count(machine.gpu_count, 'GPU')} ({', '.join(dict.fromkeys(machine.gpu_names)) or 'name unknown'})"


def cautions(specs: Sequence[RunSpec], machine: Machine) -> list[str]:
    """What a person should know before the runs start."""
    most = max(spec.world_size for spec in specs)
    found = []
    if machine.device == "cpu" and most > machine.cores:
        found.append(
            f"oversubscribed: {most} ranks on {count(machine.cores, 'core')}; "
            "such runs are marked and no efficiency is computed from them."
        )
    if specs[0].debug:
        found.append("--debug slows runs down; their records are marked not comparable.")
    own = {
        (spec.workload, tuple(spec.workload_options.items())): spec for spec in specs if adapters.is_own(spec.workload)
    }
    for spec in own.values():
        notes = adapters.notes_of(adapters.create(spec.workload, spec.workload_options, spec.seed))
        found.extend(f"{spec.model_name}: {note}." for note in notes)
    return list(dict.fromkeys(found))


def summary(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Heads and a row per cell: what tells it from the others, throughput with its interval, how its runs ended."""
    # Here and not above: scipy and pandas take seconds, and most mistakes end before anything is measured.
    from scalebench.analysis.cells import cells
    from scalebench.reporting.text import UNKNOWN, with_interval

    found = sorted(cells(records), key=lambda cell: place(cell.spec))
    fields = list(dict.fromkeys([*telling([cell.spec for cell in found]), "global_batch"]))
    rates = [f"{with_interval(cell.throughput)} {cell.item}" if cell.throughput else UNKNOWN for cell in found]
    rows = [[*shown(cell.spec, fields), rate, _endings(cell)] for cell, rate in zip(found, rates, strict=True)]
    return [*map(head, fields), "throughput per second", "runs"], rows


def parity_lines(records: Sequence[Record]) -> Iterator[str]:
    """A line per parity check that came to a verdict: the largest differences from `single`, and what was allowed."""
    for record in records:
        facts = record.parity
        if facts:
            verdict = "trained the same model as single" if facts.passed else "did NOT train the same model as single"
            found = ", ".join(
                f"{name} {_largest(values.values())} (at most {allowed:.0e})"
                for name, values, allowed in (
                    ("loss", facts.loss, facts.tolerance_loss),
                    ("gradient norm", facts.norm, facts.tolerance_norm),
                    ("parameters", facts.parameters, facts.tolerance_parameters),
                    ("moving averages", facts.average, facts.tolerance_parameters),
                )
                if values
            )
            spec = record.spec
            yield f"{spec.strategy} on {count(spec.world_size, 'rank')} in {spec.precision} {verdict}: {found}"


def problems(finished: Finished) -> list[str]:
    """One line per way in which cells did not end well: which, what, why, what to do, and the first record of it."""
    found: dict[str, dict[str, Path]] = {}
    for record, path in finished:
        problem = problem_of(record)
        if problem:
            found.setdefault(problem, {}).setdefault(cell_name(record.spec), path)
    return [f"{named(list(cells))}: {problem} ({next(iter(cells.values()))})" for problem, cells in found.items()]


def problem_of(record: Record) -> str | None:
    """What is wrong with how this run ended, or None."""
    if record.status != "ok":
        reason = (record.reason or "no reason recorded").rstrip(".")
        return f"{record.status}: {reason}. {REMEDIES.get(record.status, '')}".rstrip()
    if record.parity and not record.parity.passed:
        return "parity failed: it did not train the same model as single."
    return None


def cell_name(spec: RunSpec) -> str:
    return f"{spec.strategy} on {count(spec.world_size, 'rank')} in {spec.precision}"


def named(cells: Sequence[str]) -> str:
    """The cells that share a problem: the first few by name."""
    rest = len(cells) - NAMED_CELLS
    return "; ".join(cells) if rest <= 0 else f"{'; '.join(cells[:NAMED_CELLS])}; and {count(rest, 'other cell')}"


def exit_code(records: Sequence[Record]) -> int:
    """130 when interrupted, 3 when any run did not end ok (`unsupported` included) or failed parity, else 0."""
    if any(record.status == "interrupted" for record in records):
        return EXIT_INTERRUPTED
    return EXIT_CELL_NOT_OK if any(problem_of(record) for record in records) else EXIT_OK


def _largest(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.1e}" if known else "n/a"


def _endings(cell: Cell) -> str:
    statuses = [record.status for record in cell.records]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
