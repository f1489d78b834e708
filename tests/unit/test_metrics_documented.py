"""docs/metrics.md says of every column of every table, and of the DataFrame, what it is; and of nothing else."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scalebench.analysis.frame import to_frame
from scalebench.cli.summary import summary
from scalebench.recipe import Target
from scalebench.records.device import InterfaceBytes, NetworkFacts, SensorFacts
from scalebench.records.loading import LoaderRate
from scalebench.records.phases import PhaseFacts
from scalebench.records.probe import CopyFacts, Probe
from scalebench.records.record import Record
from scalebench.records.theory import TheoryFacts
from scalebench.reporting import report
from scalebench.scheme import scheme_of
from tests.unit.factory import ENVIRONMENT, make_parity, make_record, make_spec, make_training, make_trial
from tests.unit.test_exchange import MODEL, seen
from tests.unit.test_memory_report import facts as memory_facts
from tests.unit.test_probe import make_facts, make_probe
from tests.unit.test_sensors import full

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
HEADS = ["report", "DataFrame", "formula and estimator", "unit", "source"]
EVERYWHERE = "Columns that every table has"
NAMES = re.compile(r"`([^`]+)`")


def documented() -> dict[str, list[list[str]]]:
    """The rows of the tables that explain columns, by the title that stands over them."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            title = line.lstrip("# ")
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if len(cells) == len(HEADS) and cells != HEADS and not cells[0].startswith("---"):
            found.setdefault(title, []).append(cells)
    return found


def columns_of(text: str) -> Iterator[tuple[str, str]]:
    """The title of each table of a report, and its columns."""
    title = ""
    lines = text.splitlines()
    for line, following in itertools.pairwise(lines):
        if line.startswith("#"):
            title = line.lstrip("# ")
        if line.startswith("| ") and following.startswith("| -"):
            yield from ((title, cell.strip()) for cell in line.strip("| ").split(" | ") if cell.strip())


def same_for_any(column: str) -> str:
    return re.sub(r"\b\d+ (workers)|(environment) \d+", r"N \1" if "workers" in column else r"\2 N", column)


def everything(device: str = "cpu") -> tuple[list[Record], list[Probe]]:
    """Runs and a probe of which everything is known: every table has every column that it can have."""
    fields = {"device": device, "strategy": "ddp"}
    specs = [
        make_spec(**fields | changes)
        for scaling in ("weak", "strong")
        for changes in (
            {"strategy": "single", "scaling": scaling},
            {"scaling": scaling},
            {"world_size": 2, "micro_batch": 4 if scaling == "weak" else 2, "scaling": scaling},
            {"world_size": 2, "micro_batch": 4 if scaling == "weak" else 2, "scaling": scaling, "precision": "bf16"},
            {"strategy": "accelerate_ddp", "scaling": scaling},
        )
    ]
    records = [filled(make_record(spec, 1.0, unmatched=["no buckets"])) for spec in specs]
    other = {"world_size": 2, "micro_batch": 1, "accumulation": 2, "scaling": "strong"}
    records.append(filled(make_record(make_spec(**fields | other), 2.0)))
    length = {"steps": None, "target_precision": 0.02, "max_seconds": 5.0, "warmup_steps": 2}
    timed = make_spec(**fields, scaling="strong", micro_batch=2, accumulation=2, **length)
    trials = [
        make_trial(make_spec(**fields, scaling="strong", micro_batch=4), status="oom", reason="full"),
        make_trial(timed, 0.5),
    ]
    failed = make_record(make_spec(**fields, world_size=2), status="oom", reason="full", repeat=1)
    parity = make_parity(make_spec(**fields, world_size=2, ema_decay=0.9))
    long = [1.0 + 0.01 * (k % 7) for k in range(122)]
    elsewhere = make_record(
        make_spec(**fields, steps=120), long, session="s2", environment=ENVIRONMENT | {"python": "3.12"}
    )
    target = Target(metric="loss", value=1.2, higher=False)
    trainings = [make_training(make_spec(**fields, seed=seed), target=target) for seed in (0, 1)]
    return [*records, *trials, failed, parity, elsewhere, *trainings], [filled_probe(device)]


def filled(record: Record) -> Record:
    """`record` with everything in it that a run may leave."""
    cuda, ranks = record.spec.device == "cuda", record.spec.world_size
    allocator = {"allocated_peak": 1000, "reserved_peak": 2000, "allocation_retries": 1} if cuda else {}
    update = {
        "memory": memory_facts(resident_peak=1000, **allocator),
        "communication": seen() if ranks > 1 else None,
        "phases": PhaseFacts(start_ns=[0], data_ns=[1], forward_ns=[2], backward_ns=[3], optimizer_ns=[4]),
        "data_wait_ns": [10**8] * len(record.ranks[0].step_end_ns),
        "loader_rates": [LoaderRate(num_workers=n, steps=10 * n + 1, seconds=1.0) for n in (0, 1, 2, 4)],
        "network": NetworkFacts(opened_ns=0, closed_ns=1, interfaces={"eth0": InterfaceBytes(sent=8, received=4)}),
        "host_busy_seconds": 10.0,
        "cpu_seconds": 1.0,
        "main_thread_seconds": 1.0,
        "cpu_wait_seconds": 0.1,
    }
    assert record.workload is not None
    assert record.contract is not None
    work = record.workload.model_copy(
        update={"flops_per_sample": 3e9, "causal_flops_per_sample": 2e9, "recomputed_flops_per_sample": 1e9}
    )
    offloaded = record.spec.strategy == "ddp"
    contract = record.contract.model_copy(update={"flops_per_step": 12e9, "offloaded": offloaded})
    return record.model_copy(
        update={
            "ranks": [rank.model_copy(update=update | {"sensors": sensors(rank.rank, cuda)}) for rank in record.ranks],
            "workload": work,
            "contract": contract,
            "theory": TheoryFacts(model=MODEL, scheme=scheme_of(record.spec, MODEL)),
        }
    )


def sensors(rank: int, cuda: bool) -> list[SensorFacts]:
    package = full(0).model_copy(update={"kind": "cpu", "uuid": None})
    return [*([full(rank % 2)] if cuda else []), *([package] if rank == 0 else [])]


def filled_probe(device: str) -> Probe:
    found = make_facts()
    copies = [
        CopyFacts(direction="to_device", pinned=True, payload_bytes=size, seconds=[[1e-5 + size / 1e9] * 2] * 2)
        for size in (64, 4096)
    ]
    numbers = [f.model_copy(update={"number": n}) for f in found.matmul for n in ("fp32", "tf32", "bf16", "fp16")]
    passes = [f.model_copy(update={"kernel": k}) for f in found.memory for k in ("copy", "triad")]
    both = found.model_copy(update={"matmul": numbers, "memory": passes, "copies": copies})
    environment = ENVIRONMENT | ({"gpus": ["Example GPU"]} if device == "cuda" else {})
    probe = make_probe(2, facts=both, environment=environment)
    free = {"threads_per_rank": None, "cores_per_rank": None} if device == "cuda" else {}
    return probe.model_copy(update={"spec": probe.spec.model_copy(update={"device": device} | free)})


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds, and columns are not in plots."""
    monkeypatch.setattr(report, "write_plots", lambda experiment, folder: [])
    monkeypatch.setattr(report, "probe_plots", lambda probes, hardware: {})


def shown(records: list[Record], probes: list[Probe], folder: Path) -> set[tuple[str, str]]:
    text = report.write_report(records, folder, probes=probes).read_text(encoding="utf-8")
    return {(title, same_for_any(column)) for title, column in columns_of(text)}


def explained(title: str, tables: dict[str, list[list[str]]]) -> set[str]:
    """The report's columns that the document explains under `title`, or for every table."""
    rows = [row for heading, rows in tables.items() if title in (*heading.split(", "), heading) for row in rows]
    return {name for row in [*rows, *tables[EVERYWHERE]] for name in NAMES.findall(row[0])}


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_column_of_the_report_is_explained_under_its_table(tmp_path: Path, device: str) -> None:
    tables, found = documented(), shown(*everything(device), tmp_path)
    assert len({title for title, _ in found}) > 20
    assert {(title, column) for title, column in found if column not in explained(title, tables)} == set()


@pytest.mark.usefixtures("no_plots")
def test_nothing_is_explained_that_no_report_has(tmp_path: Path) -> None:
    """Both kinds of device, and records of one environment, together have them all."""
    found: set[str] = set()
    for records, probes in (everything("cpu"), everything("cuda"), ([make_record()], [])):
        found |= {column for _, column in shown(records, probes, tmp_path)}
    said = {name for rows in documented().values() for row in rows for name in NAMES.findall(row[0])}
    assert said - found == set()


def test_every_column_of_the_dataframe_is_explained_and_no_other() -> None:
    records, probes = everything()
    frame = to_frame(records, probes)
    said = {name for rows in documented().values() for row in rows for name in NAMES.findall(row[1])}
    assert set(frame.columns) - said == set()
    assert said - set(frame.columns) == set()


def test_every_column_has_a_formula_and_where_it_stands() -> None:
    for title, rows in documented().items():
        for name, frame, formula, unit, _ in rows:
            assert formula, f"{title}: {name}"
            assert unit or "share" in formula or "`n/a`" in formula, f"{title}: {name} {frame} has no unit"


def test_the_summary_of_a_session_is_explained_too() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    heads, _ = summary(everything()[0])
    names = [head.replace(" ", "_") if head.replace(" ", "_") in text else head for head in heads]
    assert [name for name in names if f"`{name}`" not in text] == []
