"""Do image files keep up with training? Share of the time that steps wait for data, by number of loading processes.

    python -m tests.benchmarks.image_pipeline

Writes a set of JPEG files and trains the convolutional classifier on it by `scalebench run`: the same cell with 0, 1
and 2 workers, in fresh processes and drawn order, with the rate of the loader alone beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from scalebench.analysis.loading import Loading, loading
from scalebench.analysis.steps import timed_steps, window
from scalebench.data.synth import Synthesis, synthesise
from scalebench.records.record import Record
from scalebench.records.store import load_records
from tests.benchmarks.tables import markdown

SETTINGS = {"image_size": 64, "channels": 3, "num_classes": 3}


@click.command(help=__doc__)
@click.option("--workers", default="0,1,2", show_default=True, metavar="N,...")
@click.option("--pixels", default=256, show_default=True, help="Shorter side of the JPEG files.")
@click.option("--images", default=200, show_default=True, help="Of each of three classes.")
@click.option("--micro-batch", default=8, show_default=True)
@click.option("--gpus", default=1, show_default=True, help="Ranks, under ddp; 1 is plain PyTorch.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/image-pipeline"), show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing; print the table of the records in --results.")
def main(
    workers: str, pixels: int, images: int, micro_batch: int, gpus: int, repeats: int, results: Path, show: bool
) -> None:
    if not show:
        with tempfile.TemporaryDirectory() as folder:
            asked = Synthesis(
                target=Path(folder) / "set", classes=3, per_class=images, image_size=pixels, extension="jpg", seed=0
            )
            synthesise(asked)
            flags = {"num-workers": workers, "micro-batch": micro_batch, "gpus": gpus, "repeats": repeats}
            measure(f"images:{asked.target}/images", flags, results)
    print(table([record for record in load_records(results).records if record.status == "ok"]))


def measure(data: str, flags: dict[str, object], results: Path) -> None:
    """One session of `scalebench run`."""
    command = ["run", "--strategy", "single" if flags["gpus"] == 1 else "ddp", "--workload", "classifier"]
    command += ["--size", "conv", "--data", data, "--results", str(results), "--loader-rates", "--no-baseline"]
    command += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command += [word for name, value in SETTINGS.items() for word in ("--set", f"workload.{name}={value}")]
    subprocess.run([sys.executable, "-m", "scalebench", *command], check=True, env=dict(os.environ))


def table(records: Sequence[Record]) -> str:
    """A row per number of workers: means over repeats, and the range of the stall share."""
    header = [
        "workers",
        "runs",
        "steps/s",
        "stall share",
        "range",
        *(f"loader alone, {n}, steps/s" for n in (0, 1, 2, 4)),
    ]
    rows = []
    for workers in sorted({record.spec.num_workers for record in records}):
        group = [record for record in records if record.spec.num_workers == workers]
        found = [facts for record in group if (facts := loading(record))]
        rows.append(
            [str(workers), str(len(group)), f"{np.mean([steps_per_second(r) for r in group]):.1f}", *stalls(found)]
        )
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
    rates = [[facts.rates[workers] for facts in found if workers in facts.rates] for workers in (0, 1, 2, 4)]
    said = [f"{np.mean(shares):.1%}", f"{min(shares):.1%} – {max(shares):.1%}"] if shares else ["n/a", "n/a"]
    return [*said, *(f"{np.mean(rate):.1f}" if rate else "n/a" for rate in rates)]


if __name__ == "__main__":
    main()
