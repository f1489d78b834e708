"""What stands behind the figures: contracts, parity, what could not be matched, what was not measured and why."""

from __future__ import annotations

from collections.abc import Sequence

from scalebench.analysis.cells import Cell, not_measured_because, ordered
from scalebench.analysis.parity import checks_of
from scalebench.records.record import Contract, Record
from scalebench.strategies.config import PRECISIONS

from .experiments import Experiment, strategy_order
from .table import RANK_WORDS, Row, Table, place, table
from .text import UNKNOWN, known

_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}


def contracts(experiment: Experiment) -> Table | None:
    """What was observed on the running models: a row per strategy, precision and distinct contract."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for cell in sorted(experiment.cells, key=_by_strategy):
        for contract in (record.contract for record in _finished(cell) if record.contract):
            row = {"strategy": experiment.names[cell]} | place(experiment, cell) | _contract_row(contract)
            # ranks and, since nothing is reduced on one of them, the dtype of reduction may differ within a row
            same = str({name: text for name, text in row.items() if name not in (*RANK_WORDS, "gradient reduce")})
            values = found.setdefault(same, {name: {} for name in row})
            for name, text in row.items():
                values[name].setdefault(text)
    rows = [
        {name: ", ".join([t for t in texts if t != "–"] or texts) for name, texts in v.items()} for v in found.values()
    ]
    return table("Contract, as observed on the running model", *_common_to_all(rows))


def _by_strategy(cell: Cell) -> tuple[object, ...]:
    spec = cell.spec
    return (strategy_order(spec.strategy), PRECISIONS.index(spec.precision), spec.tf32, spec.world_size)


def _common_to_all(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """`rows` without the columns that are the same in all of several rows, and a note that says those."""
    if len(rows) < 2:
        return rows, []
    common = {name: text for name, text in rows[0].items() if all(row.get(name) == text for row in rows)}
    rest = [{name: text for name, text in row.items() if name not in common} for row in rows]
    told = ", ".join(f"{name} {text}" for name, text in common.items() if text != UNKNOWN)
    return rest, [f"The same for all: {told}."] if told else []


def unmatched(experiment: Experiment) -> Table | None:
    """What the matched profile asks for and a backend could not give, and in which precisions."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for cell in sorted(experiment.cells, key=_by_strategy):
        for sentence in (sentence for record in _finished(cell) for sentence in record.unmatched):
            found.setdefault((experiment.names[cell], sentence), {}).setdefault(cell.precision)
    rows = [
        {"strategy": name, "precision": ", ".join(precisions), "difference": sentence}
        for (name, sentence), precisions in found.items()
    ]
    return table("What could not be matched", rows)


def not_measured(experiment: Experiment) -> Table | None:
    """Cells with runs that failed or that show no speed: how many, and why."""
    found: dict[tuple[Cell, str, str], int] = {}
    for cell in experiment.cells:
        for record in cell.records:
            outcome = outcome_of(record)
            if outcome:
                found[(cell, *outcome)] = found.get((cell, *outcome), 0) + 1
    rows = [
        place(experiment, cell)
        | {
            "strategy": experiment.names[cell],
            "outcome": status,
            "runs": f"{count} of {len(cell.records)}",
            "reason": reason,
        }
        for (cell, status, reason), count in found.items()
    ]
    return table("Not measured", rows)


def outcome_of(record: Record) -> tuple[str, str] | None:
    """Status and reason of a record that gives no figure; None for one that does."""
    if record.status == "ok":
        reason = not_measured_because(record)
        return None if reason is None else ("not measured", reason)
    told = record.reason or (record.error.message if record.error else None)
    return record.status, told or "no reason recorded"


def parity(records: Sequence[Record]) -> Table | None:
    """Every parity check: the largest relative difference from `single`, per optimizer."""
    rows = []
    for record in ordered(r for r in records if r.kind == "parity"):
        spec, facts = record.spec, record.parity
        rows.append(
            {
                "workload": spec.model_name,
                "ranks": f"{spec.world_size} {spec.device}",
                "precision": spec.precision,
                "strategy": spec.strategy,
                "verdict": verdict(record),
                "loss": _worst(facts.loss if facts else None, facts.tolerance_loss if facts else None),
                "gradient norm": _worst(facts.norm if facts else None, facts.tolerance_norm if facts else None),
                "final parameters": _worst(
                    facts.parameters if facts else None, facts.tolerance_parameters if facts else None
                ),
                "moving averages": _worst(facts.average or None, facts.tolerance_parameters) if facts else UNKNOWN,
                "steps": known(facts.steps if facts else None, str),
                "clipped": ", ".join(f"{k} {v}" for k, v in sorted(facts.clipped_steps.items())) if facts else UNKNOWN,
                "same start": ("bit-equal" if facts.initial_bit_equal else "differs") if facts else UNKNOWN,
            }
        )
    note = (
        "Largest relative difference from `single` on the very same micro-batches, and the tolerance it may not exceed."
    )
    return table("Parity", rows, [note])


def parity_failures(records: Sequence[Record]) -> list[str]:
    """A caution per parity check that was not passed: such a strategy did not train the same model."""
    return [
        f"caution: {record.spec.strategy} on {record.spec.world_size} ranks in {record.spec.precision} failed its "
        "parity check: it did not train the model that single trained, so its speed means nothing"
        for record in ordered(records)
        if record.parity and not record.parity.passed
    ]


def verdict(record: Record) -> str:
    """`passed`, `FAILED`, or what happened to a parity check that did not come to a verdict."""
    if record.parity is None:
        return f"{record.status}: {record.reason or 'no reason recorded'}"
    return "passed" if record.parity.passed else "FAILED"


def parity_in_short(cell: Cell, parity: Sequence[Record]) -> str:
    """The latest parity verdict on the cell's workload, strategy, ranks and precision on this machine, or n/a."""
    if cell.spec.strategy == "single":
        return "reference"
    checks = checks_of(cell, parity)
    return verdict(checks[-1]).partition(":")[0] if checks else UNKNOWN


def _finished(cell: Cell) -> list[Record]:
    return [record for record in cell.records if record.status == "ok"]


def contract_in_short(cell: Cell) -> str:
    """The contract beside a figure, `fp32 / bf16 / fp32 / fp32, autocast`; every distinct one that was observed."""
    return "; ".join(dict.fromkeys(_in_short(record.contract) for record in cell.measured))


def _in_short(contract: Contract | None) -> str:
    if contract is None:
        return UNKNOWN
    dtypes = (contract.parameter, contract.compute, contract.gradient_reduce, contract.optimizer_state)
    return " / ".join(dtype_name(name) for name in dtypes) + f", {contract.casting}"


def dtype_name(name: str | None) -> str:
    """torch's dtype names as people write precisions; several joined by `+`."""
    return "–" if name is None else "+".join(_DTYPES.get(part, part) for part in name.split("+"))


def _contract_row(contract: Contract) -> Row:
    extras = [
        f"{contract.compiled_regions} compiled regions" if contract.compiled_regions else "",
        f"{contract.recomputed} regions recomputed" if contract.recomputed else "",
        "offloaded" if contract.offloaded else "",
        *contract.observer_notes,
    ]
    return {
        "parameters": dtype_name(contract.parameter),
        "compute": dtype_name(contract.compute),
        "gradient reduce": dtype_name(contract.gradient_reduce),
        "accumulation": dtype_name(contract.gradient_accumulation),
        "master": dtype_name(contract.master),
        "optimizer state": dtype_name(contract.optimizer_state),
        "casting": contract.casting,
        "wrapper": contract.wrapper,
        "optimizer": contract.optimizer,
        "profile": contract.profile,
        "gradients reduced on": contract.grad_sync.replace("_", " "),
        "also": "; ".join(filter(None, extras)) or UNKNOWN,
    }


def _worst(differences: dict[str, float | None] | None, tolerance: float | None) -> str:
    if not differences or tolerance is None:
        return UNKNOWN
    shown = ", ".join(f"{name} {known(value, '{:.1e}'.format)}" for name, value in sorted(differences.items()))
    return f"{shown} (≤ {tolerance:.0e})"
