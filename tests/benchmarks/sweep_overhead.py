"""What a sweep takes beside its steps, against a shell loop of bare torchrun scripts that do the same steps.

\b
    python -m tests.benchmarks.sweep_overhead

ddp, fsdp and deepspeed_stage_2 on 1 and 2 ranks in fp32, bf16 and fp16: 18 cells, of which a CPU has 16. First the
whole command `scalebench run` without diagnostics, every run for about --seconds of steps, then a shell script that
launches tests/benchmarks/bare.py for each run with as many steps as it had. Both are timed from outside, from before
their first process begins until their last one has ended. Outside is what of this time is no step, warm-up included.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from pydantic import BaseModel, ConfigDict

from scalebench.analysis.steps import foreign_cpu_cores, job_spans
from scalebench.records.record import Record
from scalebench.records.store import load_records
from tests.benchmarks.pairs import COMPARED_LOSSES, MICRO_BATCH, ROOT, bare_command, bare_environment
from tests.benchmarks.tables import markdown, quietness

STRATEGIES, RANKS, PRECISIONS = "ddp,fsdp,deepspeed_stage_2", "1,2", "fp32,bf16,fp16"
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-3, "fp16": 1e-3}
MOST_OUTSIDE, LEAST_STEPS = 0.20, 0.85


class Facts(BaseModel):
    model_config = ConfigDict(frozen=True)


class Side(Facts):
    """Seconds that something took on one side, and how many of them were steps."""

    wall_seconds: float
    step_seconds: float

    @property
    def outside(self) -> float:
        return self.wall_seconds - self.step_seconds


class Run(Facts):
    """A run by each side, and what others took of this machine in scalebench's window, in cores, if known."""

    name: str
    steps: int
    sweep: Side
    loop: Side
    foreign_cores: float | None


class Study(Facts):
    """The runs, and both sides as wholes, with what belongs to no run."""

    runs: list[Run]
    unsupported: list[str]
    sweep: Side
    loop: Side


def measure(results: Path, seconds: float, flags: Sequence[str] = ()) -> Study:
    """Run the sweep, then the loop. Raises RuntimeError when a run fails or did not do what its counterpart did."""
    sweep_wall = timed([*sweep_command(results / "records", seconds), *flags], results / "sweep.log")
    records = sorted(load_records(results / "records").records, key=lambda record: record.order)
    measured = [record for record in records if record.status == "ok"]
    unsupported = [record.spec.label for record in records if record.status == "unsupported"]
    if len(measured) + len(unsupported) < len(records) or not measured:
        raise RuntimeError(f"some run failed: see {results / 'sweep.log'}")
    script = results / "loop.sh"
    script.write_text("\n".join(loop_lines(measured, results)) + "\n")
    loop_wall = timed(["sh", str(script)], results / "loop.log")
    runs = [run_of(record, results) for record in measured]
    sweep = Side(wall_seconds=sweep_wall, step_seconds=sum(run.sweep.step_seconds for run in runs))
    loop = Side(wall_seconds=loop_wall, step_seconds=sum(run.loop.step_seconds for run in runs))
    return Study(runs=runs, unsupported=unsupported, sweep=sweep, loop=loop)


def sweep_command(results: Path, seconds: float) -> list[str]:
    """Runs end by their time alone: no step is known to a millionth."""
    cells = ["--strategy", STRATEGIES, "--gpus", RANKS, "--precision", PRECISIONS, "--size", "tiny"]
    length = ["--max-seconds", str(seconds), "--target-precision", "1e-6", "--repeats", "1"]
    rest = ["--data", "synthetic", "--device", "cpu", "--micro-batch", str(MICRO_BATCH), "--results", str(results)]
    flags = ["--no-baseline", "--no-diagnostics", "--no-resume"]
    return [sys.executable, "-m", "scalebench", "run", *cells, *length, *rest, *flags]


def timed(command: Sequence[str], log: Path) -> float:
    """Seconds from before `command` begins until it has ended; what it says is in `log`."""
    with log.open("w") as said:
        started = time.monotonic()
        subprocess.run(command, env=bare_environment(), stdout=said, stderr=said, cwd=ROOT, check=False)
        return time.monotonic() - started


def loop_lines(records: Sequence[Record], results: Path) -> Iterator[str]:
    """A shell script as one writes it: a launch per line; what it prints is kept, and when it began and ended."""
    yield "set -e"
    for record in records:
        output = shlex.quote(str(results / f"bare-{record.order}"))
        launch = shlex.join(bare_command(record.spec, len(record.ranks[0].step_end_ns)))
        yield f"date +%s.%N > {output}.times; {launch} > {output}.json; date +%s.%N >> {output}.times"


def run_of(record: Record, results: Path) -> Run:
    """Both sides of one run. Raises RuntimeError when their first losses disagree."""
    output = results / f"bare-{record.order}"
    ranks = json.loads(next(line for line in output.with_suffix(".json").read_text().splitlines() if line[:2] == "[{"))
    began, ended = map(float, output.with_suffix(".times").read_text().split())
    both = zip(record.ranks[0].losses[:COMPARED_LOSSES], ranks[0]["losses"], strict=False)
    if not all(math.isclose(a, b, rel_tol=TOLERANCE[record.spec.precision]) for a, b in both):
        raise RuntimeError(f"{record.spec.label}: not the same training: {record.ranks[0].losses[:COMPARED_LOSSES]}")
    spans = job_spans(record.ranks)
    bare_ns = max(rank["step_end_ns"][-1] for rank in ranks) - max(rank["start_ns"] for rank in ranks)
    return Run(
        name=record.spec.label,
        steps=len(spans),
        sweep=Side(wall_seconds=record.wall_seconds, step_seconds=float((spans[:, 1] - spans[:, 0]).sum()) / 1e9),
        loop=Side(wall_seconds=ended - began, step_seconds=bare_ns / 1e9),
        foreign_cores=foreign_cpu_cores(record),
    )


def table(study: Study) -> str:
    heads = ["run", "steps", "steps (s)", "outside (s)", "loop: steps (s)", "loop: outside (s)", "ratio of outsides"]
    rows = [row(run.name, run.steps, run.sweep, run.loop) for run in study.runs]
    rows.append(row("before, between and after", 0, *(of_no_run(study, side) for side in ("sweep", "loop"))))
    rows.append(row("all", sum(run.steps for run in study.runs), study.sweep, study.loop))
    return markdown(heads, rows)


def of_no_run(study: Study, name: str) -> Side:
    """What of a side's time belongs to none of its runs."""
    within = sum(getattr(run, name).wall_seconds for run in study.runs)
    return Side(wall_seconds=getattr(study, name).wall_seconds - within, step_seconds=0)


def row(name: str, steps: int, sweep: Side, loop: Side) -> list[str]:
    figures = (f"{value:.2f}" for side in (sweep, loop) for value in (side.step_seconds, side.outside))
    return [name, str(steps), *figures, f"{sweep.outside / loop.outside:.3f}" if loop.outside > 0.5 else "n/a"]


def verdicts(study: Study) -> str:
    ratio = study.sweep.outside / study.loop.outside
    share = study.sweep.step_seconds / study.sweep.wall_seconds
    return "\n".join(
        [
            f"Unsupported, recorded as such: {', '.join(study.unsupported) or 'none'}.",
            f"Outside of steps: {ratio:.3f} of the loop's (target: at most {MOST_OUTSIDE}): "
            f"{met(ratio <= MOST_OUTSIDE)}.",
            f"Steps: {share:.1%} of the sweep's {study.sweep.wall_seconds:.1f} s (target: at least {LEAST_STEPS:.0%}): "
            f"{met(share >= LEAST_STEPS)}.",
            quietness(study.runs),
        ]
    )


def met(yes: bool) -> str:
    return "met" if yes else "missed"


@click.command(help=__doc__)
@click.option("--seconds", default=5.0, show_default=True, help="Of steps of each run.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/sweep-overhead"), show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing; print the table of the facts in --results.")
def main(seconds: float, results: Path, show: bool) -> None:
    facts = results / "study.json"
    if not show:
        folder = results / time.strftime("%Y%m%dT%H%M%S")
        folder.mkdir(parents=True)
        facts.write_text(measure(folder.resolve(), seconds).model_dump_json(indent=1) + "\n")
    study = Study.model_validate_json(facts.read_bytes())
    print(table(study), verdicts(study), sep="\n\n")


if __name__ == "__main__":
    main()
