"""Do image files keep up with training? Share of the time that steps wait for data, by number of loading processes.

    python -m tests.benchmarks.image_pipeline      # 6 min

Writes a set of JPEG files and trains two classifiers on it by `scalebench run`, one whose step is short and one
that computes: the same cells with 0, 1 and 2 workers, in fresh processes and drawn order, and the loader alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from scalebench.analysis.loading import Loading, loading
from scalebench.analysis.steps import timed_steps, window
from scalebench.data.synth import Synthesis, synthesise
from scalebench.records.record import Record
from scalebench.records.store import load_records
from tests.benchmarks.tables import markdown

SETTINGS = {"image_size": 32, "channels": 3, "num_classes": 3}
ALONE = (0, 1, 2, 4)
"""Workers that the loader alone is measured with."""


@click.command(help=__doc__)
@click.option("--size", default="mlp,conv", show_default=True, metavar="NAME,...", help="Of the classifier.")
@click.option("--num-workers", default="0,1,2", show_default=True, metavar="N,...")
@click.option("--pixels", default=256, show_default=True, help="Shorter side of the JPEG files.")
@click.option("--images", default=200, show_default=True, help="Of each of three classes.")
@click.option("--micro-batch", default=8, show_default=True)
@click.option("--gpus", default=1, show_default=True, help="Ranks, under ddp; 1 is plain PyTorch.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--max-seconds", default=5, show_default=True, help="Of each run.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/image-pipeline"), show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing; print the table of the records in --results.")
def main(pixels: int, images: int, results: Path, show: bool, **flags: object) -> None:
    if not show:
        with tempfile.TemporaryDirectory() as folder:
            asked = Synthesis(
                target=Path(folder) / "set", classes=3, per_class=images, image_size=pixels, extension="jpg", seed=0
            )
            synthesise(asked)
            measure(f"images:{asked.target}/images", flags, results)
    print(table([record for record in load_records(results).records if record.status == "ok"]))


def measure(data: str, flags: Mapping[str, object], results: Path) -> None:
    """One session of `scalebench run`."""
    command = ["run", "--strategy", "single" if flags["gpus"] == 1 else "ddp", "--workload", "classifier"]
    command += ["--data", data, "--precision", "fp32", "--results", str(results), "--loader-rates", "--no-baseline"]
    command += [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command += [word for name, value in SETTINGS.items() for word in ("--set", f"workload.{name}={value}")]
    subprocess.run([sys.executable, "-m", "scalebench", *command], check=True)


def table(records: Sequence[Record]) -> str:
    """A row per model and number of workers: means over repeats, and the range of the stall share."""
    header = ["model", "workers", "runs", "steps/s", "stall share", "range"]
    header += [f"loader alone, {workers}, steps/s" for workers in ALONE]
    rows = []
    for size, workers in sorted({(record.spec.size, record.spec.num_workers) for record in records}):
        group = [record for record in records if (record.spec.size, record.spec.num_workers) == (size, workers)]
        found = [facts for record in group if (facts := loading(record))]
        rate = np.mean([steps_per_second(record) for record in group])
        rows.append([size, str(workers), str(len(group)), f"{rate:.1f}", *stalls(found)])
    return markdown(header, rows)


def steps_per_second(record: Record) -> float:
    """Of the timed window."""
    measured, timed = window(record), timed_steps(record)
    assert measured is not None
    assert timed is not None
    return float(timed.sum()) / measured.wall_seconds


def stalls(found: Sequence[Loading]) -> list[str]:
    """Mean share of the window spent waiting, its range, and the loader's rate alone per number of workers."""
    shares = [facts.wait_share for facts in found]
    rates = [[facts.rates[workers] for facts in found if workers in facts.rates] for workers in ALONE]
    said = [f"{np.mean(shares):.1%}", f"{min(shares):.1%} – {max(shares):.1%}"] if shares else ["n/a", "n/a"]
    return [*said, *(f"{np.mean(rate):.1f}" if rate else "n/a" for rate in rates)]


if __name__ == "__main__":
    main()
