"""What do register tokens cost a diffusion transformer, in time and memory? The table of docs/workloads/dit.md.

\b
    python -m tests.benchmarks.register_tokens                     # s/2 on one CPU rank, 10 rounds, half an hour
    python -m tests.benchmarks.register_tokens --size xl/2 --micro-batch 16 --device cuda
    python -m tests.benchmarks.register_tokens --show              # the table of what is recorded

Every round runs 0, 4, 8 and 16 tokens in random order, each in a fresh process, by scalebench's own runner. A ratio is
taken within a round, and its interval is Student's over the rounds. Runs that are recorded in --results count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from scalebench.analysis.cells import items_per_second
from scalebench.analysis.memory import expected, peak
from scalebench.cli.progress import open_progress
from scalebench.harness.resume import standing
from scalebench.harness.runner import execute
from scalebench.machine import detect
from scalebench.matrix import plan, resolve
from scalebench.matrix.request import Request
from scalebench.records.record import Record
from scalebench.spec import PlannedRun
from scalebench.stats.intervals import geometric_mean
from scalebench.workloads import create
from tests.benchmarks.tables import markdown

TOKENS = (0, 4, 8, 16)
OPTION = "num_register_tokens"
Figure = Callable[[Record], float | None]
HEADS = ("register tokens", "rounds", "ms/step", "time", "FLOPs", "peak memory (MiB)", "memory", "memory by formula")


def planned(size: str, micro_batch: int, device: str, seconds: float, rounds: int) -> list[PlannedRun]:
    """Rounds of one run for each number of tokens, the model alone on one rank."""
    asked = {
        "workload": "dit",
        "strategy": "single",
        "gpus": 1,
        "size": size,
        "micro_batch": micro_batch,
        "device": device,
        "max_seconds": seconds,
        "set": {"workload": {OPTION: list(TOKENS)}},
    }
    return plan(resolve(Request.model_validate(asked), detect(device)), rounds, seed=0)


def measure(runs: Sequence[PlannedRun], results: Path, *, show: bool = False) -> list[Record]:
    """The records of `runs`: those that are there, and unless they are only to be shown, the others made."""
    found = standing(runs, results, ("failed", "timeout"))
    with open_progress(found.recorded) as progress:
        if found.left and not show:
            execute(found.left, results=results, progress=progress)
    return [record for record, _ in progress.finished if record.status == "ok"]


def table(records: Sequence[Record]) -> str:
    """A row per number of tokens: typical figures, and ratios to none of them with 95% intervals."""
    return markdown(HEADS, [row(records, tokens) for tokens in TOKENS])


def row(records: Sequence[Record], tokens: int) -> list[str]:
    times, peaks = (by_round(records, tokens, figure) for figure in (step_seconds, peak_bytes))
    return [
        str(tokens),
        str(len(times)),
        *(typical(times, 1e3), ratio(records, tokens, step_seconds), ratio(records, tokens, flops)),
        *(typical(peaks, 2**-20), ratio(records, tokens, peak_bytes), ratio(records, tokens, expected_bytes)),
    ]


def by_round(records: Sequence[Record], tokens: int, figure: Figure) -> dict[tuple[str, int], float]:
    """The figure of each run with that many tokens that has one, by session and round."""
    chosen = [record for record in records if record.spec.workload_options[OPTION] == tokens]
    found = {(record.session, record.repeat): figure(record) for record in chosen}
    return {key: value for key, value in found.items() if value is not None}


def typical(values: Mapping[tuple[str, int], float], factor: float) -> str:
    """The geometric mean, in another unit."""
    return f"{factor * geometric_mean(list(values.values())).value:.4g}" if values else "n/a"


def ratio(records: Sequence[Record], tokens: int, figure: Figure) -> str:
    """The figure's ratio to that without any, taken within each round."""
    above, below = (by_round(records, count, figure) for count in (tokens, 0))
    ratios = [above[key] / below[key] for key in above if key in below]
    if not ratios:
        return "n/a"
    found = geometric_mean(ratios)
    ends = [f"{end:.3f}" for end in (found.low, found.high) if end is not None]
    return f"{found.value:.3f}" + (f" [{', '.join(ends)}]" if len(set(ends)) == 2 else "")


def step_seconds(record: Record) -> float | None:
    """Seconds per step."""
    rate, workload = items_per_second(record), record.workload
    return record.spec.global_batch * workload.items_per_sample / rate if rate and workload else None


def peak_bytes(record: Record) -> float | None:
    """Peak of tensors, or of the CUDA allocator."""
    return peak(record)


def expected_bytes(record: Record) -> float | None:
    """The peak by formula."""
    theory = expected(record)
    return theory.peak if theory else None


def flops(record: Record) -> float | None:
    """Model FLOPs of one sample."""
    return create("dit", record.spec.size, record.spec.workload_options).flops_per_sample()


@click.command(help=__doc__)
@click.option("--size", default="s/2", show_default=True)
@click.option("--micro-batch", default=1, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--seconds", default=20.0, show_default=True, help="Of steps of each run, at most.")
@click.option("--rounds", default=10, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/register-tokens"), show_default=True)
@click.option("--show", is_flag=True, help="Measure nothing; print the table of the records in --results.")
def main(size: str, micro_batch: int, device: str, seconds: float, rounds: int, results: Path, show: bool) -> None:
    records = measure(planned(size, micro_batch, device, seconds, rounds), results, show=show)
    print(table(records))


if __name__ == "__main__":
    main()
