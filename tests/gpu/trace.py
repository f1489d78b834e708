"""Where the time of a wrapper's step goes at one rank: what its kernels compute, exchange and leave idle, per strategy.

    python -m tests.gpu.trace TRACES.json [--stand-in]

Beside the JSON it writes the same as a table, TRACES.md. Off the clock: a profiler watches.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from scalebench import workloads
from scalebench.harness import worker
from scalebench.harness.job import Job, Report
from scalebench.harness.launcher import Launcher, LaunchError
from scalebench.harness.lifeline import private_folder
from scalebench.harness.loading import loader_of
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place
from scalebench.harness.runner import preload_for, unsupported_reason
from scalebench.harness.worker import Stages
from scalebench.machine import detect
from scalebench.meters.communication import Trace, cpu_trace, cuda_trace, length, outside, union, what_ran
from scalebench.spec import PlannedRun, RunSpec
from scalebench.strategies.base import Batch, Strategy, TrainStep
from tests.benchmarks.tables import markdown
from tests.gpu.plan import overhead_specs

WARM_UP, STEPS, LONGEST = 4, 3, 8
SYNCHRONISING = ("cudaDeviceSynchronize", "cudaStreamSynchronize")
MILLISECONDS = 1e-3


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One strategy's step, in milliseconds, a mean over the traced steps.

    Attributes:
        computing: some kernel computes. exposed: only collectives run. idle: nothing runs on the device.
        kernels: how many were started. synchronised: how often the host waited for the device.
        longest: the kernels (on a CPU operators) that took longest, and how long.
    """

    strategy: str
    step: float
    computing: float
    exposed: float
    idle: float
    kernels: float
    synchronised: float
    longest: dict[str, float]


def summarise(strategy: str, trace: Trace, events: Sequence[tuple[str, float]], calls: Mapping[str, int]) -> Summary:
    """What `trace` of `STEPS` steps comes to; `events` are names and durations (microseconds), `calls` of the host."""
    computing, collectives = union(trace.computing), union(interval for _, interval in trace.collectives)
    step = trace.span[1] - trace.span[0]
    parts = {"computing": length(computing), "exposed": length(outside(collectives, computing))}
    each = MILLISECONDS / STEPS
    longest: Counter[str] = Counter()
    for name, duration in events:
        longest[name] += round(duration)
    return Summary(
        strategy=strategy,
        step=step * each,
        idle=(step - sum(parts.values())) * each,
        **{name: microseconds * each for name, microseconds in parts.items()},
        kernels=len(events) / STEPS,
        synchronised=sum(calls.get(name, 0) for name in SYNCHRONISING) / STEPS,
        longest={name[:80]: total * each for name, total in longest.most_common(LONGEST)},
    )


def rank(job: Job) -> Summary:
    """What the one rank of a launch does."""
    found: list[Summary] = []

    def perform(job: Job, strategy: Strategy, place: Place, phase: Phase, stages: Stages) -> Report:
        found.append(traced(job.run.spec, strategy, place))
        return Report()

    worker.work(job, perform=perform)
    return found[0]


def traced(spec: RunSpec, strategy: Strategy, place: Place) -> Summary:
    """Some steps of `spec` under torch's profiler, after others that warm it up."""
    workload = workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed)
    batches = loader_of(workload.samples(spec.data, spec.seed), spec, place, spec.num_workers)
    step = strategy.prepare(workload, spec.train_config(), place.device)
    cuda = place.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    run_steps(step, batches, WARM_UP, cuda)
    for _ in range(2):  # in the first the profiler itself gets going
        with profile(activities=activities) as profiler:
            run_steps(step, batches, STEPS, cuda)
    step.close()
    events = list(what_ran(profiler.events() or []))
    trace = cuda_trace(events) if cuda else cpu_trace(events)
    on_device = DeviceType.CUDA if cuda else DeviceType.CPU
    timed = [(name, end - start) for name, (start, end), where in events if where == on_device]
    calls = Counter(name for name, _, where in events if where == DeviceType.CPU)
    return summarise(spec.strategy, trace, timed, calls)


def run_steps(step: TrainStep, batches: Iterator[Sequence[Batch]], count: int, cuda: bool) -> None:
    for _ in range(count):
        step(next(batches))
    if cuda:
        torch.cuda.synchronize()


def summaries(specs: Sequence[RunSpec]) -> Iterator[Summary | str]:
    """Of each spec, in fresh processes; a line for one that could not be traced."""
    runs = [PlannedRun(spec=spec) for spec in specs]
    launcher = Launcher(device=specs[0].device, preload=preload_for(runs))
    for run in runs:
        reason = unsupported_reason(run.spec)
        if reason:
            yield f"{run.spec.strategy}: {reason}"
            continue
        try:
            with private_folder() as folder:
                yield launcher.launch(rank, Job(run=run), 1, folder, patience=120.0)[0]
        except LaunchError as error:
            yield f"{run.spec.strategy}: {error}"


def table(found: Sequence[Summary]) -> str:
    """A row per strategy, and what took longest in each."""
    heads = ["strategy", "step, ms", "computing", "exposed", "idle", "kernels per step", "host waits per step"]
    rows = [[one.strategy, *(f"{value:.2f}" for value in numbers(one))] for one in found]
    longest = [
        f"{one.strategy}: " + "; ".join(f"{name} {took:.2f} ms" for name, took in one.longest.items()) for one in found
    ]
    return "\n\n".join([markdown(heads, rows), *longest]) + "\n"


def numbers(one: Summary) -> tuple[float, ...]:
    return one.step, one.computing, one.exposed, one.idle, one.kernels, one.synchronised


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--stand-in", is_flag=True)
def main(file: Path, stand_in: bool) -> None:
    specs = overhead_specs(detect("cpu" if stand_in else "cuda"), stand_in)
    made: list[Any] = []
    for found in summaries(specs):
        if isinstance(found, Summary):
            made.append(found)
            file.write_text(json.dumps([asdict(one) for one in made], indent=1))
            file.with_suffix(".md").write_text(table(made))
        click.echo(found)


if __name__ == "__main__":
    from tests.gpu import trace

    trace.main()  # of the module by its name, under which ranks find what they are told to call
