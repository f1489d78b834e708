"""`scalebench run --dry-run`: the planned cells, what theory says of their memory, and how long the runs will take."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence

from scalebench import workloads
from scalebench.analysis.durations import Durations
from scalebench.cli.progress import duration
from scalebench.cli.wording import count, head, shown
from scalebench.harness.resume import Standing
from scalebench.spec import PlannedRun, RunSpec
from scalebench.theory.model import Model

MOST_LAYERS = 1000
"""Of deeper models theory is not asked here: describing a thousand layers takes seconds."""


def forecast(
    specs: Sequence[RunSpec], fields: Sequence[str], runs: Sequence[PlannedRun], found: Standing
) -> tuple[list[str], list[list[str]]]:
    """Heads and a row per cell of the plan `runs`: its `fields`, memory, and its runs, made and to be made."""
    durations = Durations(record for record, _ in found.recorded)
    planned, left = (Counter(run.spec.cell_id for run in some) for some in (runs, found.left))
    rows = [
        [
            *shown(spec, fields),
            memory_text(spec),
            f"{planned[spec.cell_id] - left[spec.cell_id]}/{planned[spec.cell_id]}",
            duration_text(spec, durations),
        ]
        for spec in specs
    ]
    return [*map(head, fields), "memory per rank (theory)", "recorded", "time per run"], rows


def memory_text(spec: RunSpec) -> str:
    """The peak that theory expects on a rank; n/a where it has no formula, or the cell cannot run."""
    # Here and not above: a wrong command should be told before torch is imported.
    from scalebench.reporting.text import known, size

    return known(None if unsupported(spec) else peak_bytes(spec), size)


def peak_bytes(spec: RunSpec) -> int | None:
    """Bytes that a rank needs at the fullest moment, by the formulas of scalebench.theory.memory; None without one."""
    layers = spec.workload_options.get(workloads.depth_option(spec.workload) or "")
    if isinstance(layers, int) and layers > MOST_LAYERS:
        return None
    from scalebench.scheme import scheme_of
    from scalebench.theory.memory import memory

    try:
        model = _model(spec.workload, spec.size, json.dumps(spec.workload_options), spec.compile)
    except (RuntimeError, TypeError):  # tensors larger than torch can count
        return None
    scheme = scheme_of(spec, model)
    saved = workloads.create(spec.workload, spec.size, spec.workload_options).saved_activations()
    return memory(model, scheme, saved, spec.micro_batch).peak if scheme else None


@functools.cache
def _model(name: str, size: str, options: str, compiled: bool) -> Model:
    from scalebench.scheme import model_of

    return model_of(workloads.create(name, size, json.loads(options)), whole_regions=compiled)


def unsupported(spec: RunSpec) -> str | None:
    """Why this cell cannot run here; None when nothing is known to speak against it."""
    from scalebench.harness.runner import unsupported_reason

    return unsupported_reason(spec)


def duration_text(spec: RunSpec, durations: Durations) -> str:
    """How long runs of this cell took; before the first, how long its steps take at most, where that is bounded."""
    seconds = durations.of((spec.cell_id, "run"))
    if seconds is not None:
        return duration(seconds)
    return f"steps: at most {duration(spec.max_seconds)}" if spec.max_seconds else "unknown"


def outlook(specs: Sequence[RunSpec], found: Standing) -> Iterator[str]:
    """How long what is left will take, and which cells cannot run."""
    yield f"{count(len(found.left), 'run')} to make; time: {time_left(found)}."
    reasons = {
        f"unsupported: {spec.strategy} on {count(spec.world_size, 'rank')} in {spec.precision}: {reason}": None
        for spec in specs
        if (reason := unsupported(spec))
    }
    yield from reasons


def time_left(found: Standing) -> str:
    """In words, with what the figure rests on."""
    durations = Durations(record for record, _ in found.recorded)
    counts = Counter(run.key for run in found.left)
    unseen = sum(number for key, number in counts.items() if durations.of(key) is None)
    seconds = durations.together(counts)
    if seconds is not None:
        rough = f", rough, as {unseen} of them are of cells never run here and count as the mean of the others"
        return f"about {duration(seconds)}{rough if unseen else ''}"
    limits = [run.spec.max_seconds for run in found.left if run.kind == "run" and run.spec.max_seconds]
    bounded = f"; the steps of the timed ones take at most {duration(sum(limits))}" if limits else ""
    return f"unknown, as no run of these cells is recorded{bounded}"
