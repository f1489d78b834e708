"""The machines and software that the records were made on, side by side where they differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from scalebench.records.record import Record

from .table import Table, table
from .text import UNKNOWN, size

WORDS = {
    "cpu_model": "CPU",
    "cores_allowed": "cores allowed",
    "memory_bytes": "memory",
    "gpus": "GPUs",
    "commit": "scalebench commit",
    "dirty": "uncommitted changes",
}


def environment_table(records: Sequence[Record]) -> Table | None:
    """One row per known fact, with a column per distinct environment in the order given. Host names are left out."""
    environments = list({json.dumps(facts): facts for facts in map(_facts, records)}.values())
    names = dict.fromkeys(name for facts in environments for name in facts)
    headers = ["all runs"] if len(environments) == 1 else [f"environment {i + 1}" for i in range(len(environments))]
    rows = [
        {"": WORDS.get(name, name)}
        | {header: facts.get(name, UNKNOWN) for header, facts in zip(headers, environments, strict=True)}
        for name in names
    ]
    notes = [
        "Not all records come from one environment; figures are only compared between equal machines and versions."
    ]
    return table("Environment", rows, notes if len(environments) > 1 else [])


def sessions_line(records: Sequence[Record]) -> str:
    """The sessions and the number of records of each, in the order given."""
    counts = Counter(record.session for record in records)
    return "Sessions: " + ", ".join(f"{session} ({count} records)" for session, count in counts.items()) + "."


def _facts(record: Record) -> dict[str, str]:
    """What is known of a record's environment, as text; a host's name says where, not what, and changes at will."""
    facts = {name: value for name, value in record.environment.items() if name not in ("host", "variables", "topology")}
    variables = record.environment.get("variables")
    shown = {name: _text(name, value) for name, value in facts.items() if value not in (None, [])}
    return shown | (dict(sorted((str(k), str(v)) for k, v in variables.items())) if isinstance(variables, dict) else {})


def _text(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(f"{count} × {name}" for name, count in Counter(map(str, value)).items())
    return str(value)
