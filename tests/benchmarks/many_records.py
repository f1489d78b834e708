"""How the time to resume, load and report grows with the number of records: is it in proportion?

\b
    python -m tests.benchmarks.many_records

A short sweep is measured first. Its records are multiplied: copies with other step times (a factor per process, noise
per step), in sessions of five repeats of every cell, with a new seed, and so new cells and a new experiment, every
thousand records. Each figure is one call in a fresh process, imports not counted. The exponent is that of the power law
through the points: 1 is growth in proportion.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
from pydantic import BaseModel, ConfigDict

from scalebench.harness.resume import standing
from scalebench.matrix import plan
from scalebench.records.record import RankFacts, Record
from scalebench.records.store import load_records
from scalebench.spec import RunSpec
from tests.benchmarks.pairs import ROOT
from tests.benchmarks.tables import markdown

SIZES = "1250,2500,5000,10000,20000"
SWEEP = (
    "--strategy ddp,fsdp,deepspeed_stage_2 --gpus 1,2 --precision fp32,bf16 --size tiny --device cpu --data synthetic"
)
LENGTH = "--warmup-steps 10 --steps 60 --repeats 1"
REPEATS = 5
RECORDS_PER_SEED = 1000
PROCESS_SPREAD, STEP_SPREAD = 0.03, 0.02
MOST_EXPONENT = 1.1


class Point(BaseModel):
    """One call on so many records: wall time and CPU time in seconds, and the most memory its process held."""

    model_config = ConfigDict(frozen=True)

    what: str
    records: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def resume(folder: Path) -> None:
    """Find that nothing is left of a plan that holds every cell of the folder."""
    specs = [RunSpec.model_validate(spec) for spec in json.loads((folder / "specs").read_text())]
    found = standing(plan(specs, 1, 0), folder)
    assert not found.left, "all of it is there"


def load(folder: Path) -> None:
    import scalebench

    assert len(scalebench.load(folder))


def report(folder: Path) -> None:
    from scalebench.reporting.report import write_report

    with tempfile.TemporaryDirectory() as output:
        write_report(load_records(folder).records, Path(output))


CALLS: dict[str, Callable[[Path], None]] = {"resume": resume, "load": load, "report": report}


def measure(folder: Path, sizes: Sequence[int]) -> Iterator[Point]:
    """Every call at every size, after a call that imports everything."""
    sweep = [sys.executable, "-m", "scalebench", "run", *SWEEP.split(), *LENGTH.split(), "--results", folder / "real"]
    subprocess.run(sweep, cwd=ROOT, check=True, capture_output=True)
    templates = [record for record in load_records(folder / "real").records if record.status == "ok"]
    everything = list(written(multiplied(templates, max(sizes), np.random.default_rng(0)), folder / "all"))
    small = linked(everything[: len(templates)], folder / "small")
    for size in sizes:
        part = linked(everything[:size], folder / str(size))
        for what in CALLS:
            yield timed(what, part, small, size)


def multiplied(templates: Sequence[Record], count: int, chance: np.random.Generator) -> Iterator[Record]:
    """`count` records, session after session."""
    for number in range(count):
        template, block = templates[number % len(templates)], number // len(templates)
        session = block // REPEATS
        yield template.model_copy(
            update={
                "spec": template.spec.model_copy(update={"seed": number // RECORDS_PER_SEED}),
                "session": f"session-{session:05}",
                "repeat": block % REPEATS,
                "order": number % (len(templates) * REPEATS),
                "started_at": f"2030-01-01T00:00:00.{number:06}+00:00",
                "ranks": with_other_times(template.ranks, chance),
            }
        )


def with_other_times(ranks: Sequence[RankFacts], chance: np.random.Generator) -> list[RankFacts]:
    """The same steps at another speed, all ranks alike."""
    steps = len(ranks[0].step_end_ns)
    factors = np.exp(chance.normal(0, PROCESS_SPREAD)) * np.exp(chance.normal(0, STEP_SPREAD, steps))
    return [rank.model_copy(update={"step_end_ns": slowed(rank, factors)}) for rank in ranks]


def slowed(rank: RankFacts, factors: np.ndarray) -> list[int]:
    """The ends of steps that take `factors` times as long; every chunk begins when it did."""
    ends = np.array(rank.step_end_ns)
    begins, starts = np.concatenate([ends[:1], ends[:-1]]), [chunk.first_step for chunk in rank.chunks]
    begins[starts] = [chunk.start_ns for chunk in rank.chunks]
    parts = np.split((ends - begins) * factors, starts[1:])
    return [
        round(chunk.start_ns + end) for chunk, part in zip(rank.chunks, parts, strict=True) for end in np.cumsum(part)
    ]


def written(records: Iterable[Record], folder: Path) -> Iterator[tuple[Path, RunSpec]]:
    """Each record's file, as the store lays them out, but without waiting for the disk after each; and its spec."""
    for record in records:
        path = folder / record.session / record.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        yield path, record.spec


def linked(files: Sequence[tuple[Path, RunSpec]], folder: Path) -> Path:
    """A results folder of these records alone, with the specs of their cells."""
    for path, _ in files:
        place = folder / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, place)
    specs = dict.fromkeys(spec for _, spec in files)
    (folder / "specs").write_text(json.dumps([spec.model_dump(mode="json") for spec in specs]))
    return folder


def timed(what: str, folder: Path, small: Path, size: int) -> Point:
    """One call on `folder` in a fresh process, after one on a `small` folder."""
    command = [sys.executable, "-m", "tests.benchmarks.many_records", "--call", what, str(small), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} of {size} records failed:\n{done.stderr[-2000:]}")
    return Point(what=what, records=size, **json.loads(done.stdout.splitlines()[-1]))


def call(what: str, small: Path, folder: Path) -> None:
    """Print what one call on `folder` took; what it imports a call on `small` has imported."""
    CALLS[what](small)
    started, cpu = time.perf_counter(), time.process_time()
    CALLS[what](folder)
    found = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps(found | {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def exponent(points: Sequence[Point]) -> float:
    """The slope of log time over log records, by least squares."""
    slope, _ = np.polyfit(np.log([p.records for p in points]), np.log([p.cpu_seconds for p in points]), 1)
    return float(slope)


def table(points: Sequence[Point]) -> str:
    """A row per call and size, and under them the exponents, of CPU time: what else runs disturbs it less."""
    heads = ["call", "records", "wall (s)", "CPU (s)", "CPU per record (ms)", "peak memory (MiB)"]
    rows = [
        [
            point.what,
            str(point.records),
            f"{point.seconds:.2f}",
            f"{point.cpu_seconds:.2f}",
            f"{1e3 * point.cpu_seconds / point.records:.2f}",
            f"{point.peak_bytes / 2**20:.0f}",
        ]
        for point in points
    ]
    return "\n\n".join([markdown(heads, rows), *(verdict(what, points) for what in CALLS)])


def verdict(what: str, points: Sequence[Point]) -> str:
    found = exponent([point for point in points if point.what == what])
    met = "met" if found <= MOST_EXPONENT else "missed"
    return f"{what}: CPU time grows as records to the power of {found:.2f} (target: at most {MOST_EXPONENT}): {met}."


@click.command(help=__doc__)
@click.option("--sizes", default=SIZES, show_default=True, metavar="N,...", help="Numbers of records.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/many-records"), show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing; print the table of the facts in --results.")
@click.option("--call", "asked", hidden=True, nargs=3)
def main(sizes: str, results: Path, show: bool, asked: tuple[str, str, str] | None) -> None:
    if asked:
        call(asked[0], Path(asked[1]), Path(asked[2]))
        return
    facts = results / "points"
    if not show:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            points = list(measure(Path(folder), [int(size) for size in sizes.split(",")]))
        facts.write_text(json.dumps([point.model_dump() for point in points]))
    print(table([Point.model_validate(point) for point in json.loads(facts.read_text())]))


if __name__ == "__main__":
    main()
