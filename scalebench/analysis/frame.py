"""Records as a pandas DataFrame: one row per record, units in the columns' names."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scalebench.records.probe import Probe
from scalebench.records.record import Contract, Record
from scalebench.records.store import load_records
from scalebench.stats.within_run import autocorrelation_time
from scalebench.theory.memory import Memory

from . import communication, memory
from .bottleneck import explain
from .cells import machine, not_measured_because, ordered
from .device import gpu_state, traffic
from .energy import cpu_energy, gpu_energy, joules_per_item
from .instability import instabilities
from .loading import loading
from .phases import PHASES, phase_times
from .steps import data_wait_share, foreign_cpu_cores, sum_over_wall, window
from .stragglers import spread
from .unsteady import precision_reached
from .utilisation import counted_over_formula, utilisation


def load(path: str | Path = "results/") -> pd.DataFrame:
    """Every record under `path` (a results folder, or one file), one row each, in the order they ran.

    Columns: the spec's fields; the record's identity and outcome; derived figures with their units in their names
    (docs/metrics.md gives each formula); the observed contract as `contract_*`; the machine as `environment_*`. Unknown
    is NA. Damaged files are named in a warning and left out. Raises UserError when `path` does not exist.
    """
    found = load_records(Path(path))
    if found.damaged:
        listed = "; ".join(f"{file}: {reason}" for file, reason in found.damaged)
        warnings.warn(f"{len(found.damaged)} damaged file(s) left out: {listed}", stacklevel=2)
    return to_frame(found.records, found.probes)


def to_frame(records: Iterable[Record], probes: Sequence[Probe] = ()) -> pd.DataFrame:
    """One row per record; see `load` for the columns. `probes` give peaks to devices that no data sheet is known of."""
    return pd.DataFrame([_row(record, probes) for record in ordered(records)]).convert_dtypes()


def _row(record: Record, probes: Sequence[Probe]) -> dict[str, object]:
    return {
        **_identity(record),
        **_spec(record),
        **_time(record),
        **_utilisation(record, probes),
        **_memory(record),
        **_communication(record),
        **_phases(record),
        **_limits(record, probes),
        **_loading(record),
        **_device(record),
        **_training(record),
        **_contract(record),
        **{f"environment_{name}": _plain(value) for name, value in machine(record).items()},
    }


def _identity(record: Record) -> dict[str, object]:
    not_measured = not_measured_because(record) if record.kind == "run" and record.status == "ok" else None
    return {
        "session": record.session,
        "kind": record.kind,
        "repeat": record.repeat,
        "order": record.order,
        "started_at": record.started_at,
        "status": record.status,
        "reason": record.reason,
        "not_measured_because": not_measured,
        "cell_id": record.spec.cell_id,
        "method": record.method,
    }


def _spec(record: Record) -> dict[str, object]:
    fields = {name: _plain(value) for name, value in record.spec.model_dump(mode="json").items()}
    return {**fields, "global_batch": record.spec.global_batch}


def _time(record: Record) -> dict[str, object]:
    measured = window(record)
    steps = measured.step_seconds if measured else None
    rate = measured.items_per_second if measured else None
    return {
        "item": record.workload.item if record.workload else None,
        "throughput_items_per_second": rate,
        "throughput_per_rank_items_per_second": None if rate is None else rate / record.spec.world_size,
        "window_seconds": measured.wall_seconds if measured else None,
        "steps_over_wall": sum_over_wall(record),
        "window_steps": measured.steps if measured else None,
        "window_first_step": record.window.first_step if record.window else None,
        "window_stopped": record.window.stopped if record.window else None,
        "step_median_half_width": precision_reached(record),
        "step_autocorrelation_steps": None if steps is None else autocorrelation_time(steps),
        "step_median_seconds": None if steps is None else float(np.median(steps)),
        "step_p95_seconds": None if steps is None else float(np.quantile(steps, 0.95)),
        "step_max_seconds": None if steps is None else float(steps.max()),
        "data_wait_share": data_wait_share(record),
        "foreign_cpu_cores": foreign_cpu_cores(record),
        "instabilities": ", ".join(one.kind for one in instabilities(record)) if measured else None,
        "run_wall_seconds": record.wall_seconds,
    }


def _utilisation(record: Record, probes: Sequence[Probe]) -> dict[str, object]:
    used = utilisation(record, probes)
    peak = used.peak if used else None
    return {
        "model_flops_per_second_per_rank": used.flops_per_second if used else None,
        "peak_flops_per_second": peak.flops_per_second if peak else None,
        "peak_source": peak.source if peak else None,
        "mfu_full_attention": used.mfu if used else None,
        "mfu_causal": used.causal_mfu if used else None,
        "hfu": used.hfu if used else None,
        "share_of_probe": used.of_probe if used else None,
        "flops_counted_over_formula": counted_over_formula(record),
    }


def _memory(record: Record) -> dict[str, object]:
    held, theory = memory.split(record), memory.expected(record)
    formulas = [field.name for field in dataclasses.fields(Memory)]
    return {
        **{f"{kind}_bytes": memory.largest(record, kind) for kind in memory.KINDS},
        "allocation_retries": memory.largest(record, "allocation_retries"),
        "fragmentation": memory.fragmentation(record),
        **{f"at_peak_{name}_bytes": getattr(held, name) if held else None for name in memory.CATEGORIES},
        **{f"expected_{name}_bytes": getattr(theory, name) if theory else None for name in formulas},
    }


def _communication(record: Record) -> dict[str, object]:
    seen, theory = communication.exchanged(record), communication.expected(record)
    times = communication.exposure(record)
    return {
        "communication_payload_bytes": seen.payload if seen else None,
        "communication_wire_bytes": seen.wire if seen else None,
        "expected_communication_payload_bytes": theory.payload if theory else None,
        "expected_communication_wire_bytes": theory.wire if theory else None,
        "communication_seconds": times.total if times else None,
        "communication_exposed_seconds": times.exposed if times else None,
        "communication_step_seconds": times.step if times else None,
    }


def _phases(record: Record) -> dict[str, object]:
    times = phase_times(record)
    return {f"phase_{phase}_seconds": times[phase].mean if times else None for phase in PHASES}


def _limits(record: Record, probes: Sequence[Probe]) -> dict[str, object]:
    found, ranks = explain(record, probes), spread(record)
    first = found.first if found else None
    return {
        "slowest_rank": ranks.slowest if ranks else None,
        "slowest_rank_waited_seconds": ranks.waited if ranks else None,
        "limited_by": first.cause if first else None,
        "limited_by_share": found.share(first) if found and first else None,
    }


def _loading(record: Record) -> dict[str, object]:
    found = loading(record)
    return {
        "loader_steps_per_second_needed": found.needed if found else None,
        "loader_steps_per_second": _plain(found.rates) if found else None,
        "loader_workers_needed": found.workers if found else None,
    }


def _device(record: Record) -> dict[str, object]:
    gpu, cpu, state, moved = gpu_energy(record), cpu_energy(record), gpu_state(record), traffic(record)
    return {
        "gpu_energy_joules": gpu.joules,
        "gpu_energy_source": gpu.source,
        "gpu_energy_joules_per_item": joules_per_item(record, gpu),
        "cpu_energy_joules": cpu.joules,
        "cpu_energy_joules_per_item": joules_per_item(record, cpu),
        "gpu_watts": state.watts if state else None,
        "gpu_sm_clock_mhz": state.sm_clock_mhz if state else None,
        "gpu_sm_clock_share": state.sm_clock_share if state else None,
        "gpu_memory_clock_mhz": state.memory_clock_mhz if state else None,
        "gpu_temperature_celsius": state.temperature_celsius if state else None,
        "gpu_utilisation": state.utilisation if state else None,
        "gpu_throttled": _plain(state.throttled) if state else None,
        "gpu_other_processes": state.other_processes if state else None,
        "network_interface": moved.interface if moved else None,
        "network_sent_bytes_per_step": moved.sent_per_step if moved else None,
        "network_received_bytes_per_step": moved.received_per_step if moved else None,
    }


def _training(record: Record) -> dict[str, object]:
    last = [rank.losses[-1] for rank in record.ranks if rank.losses]
    return {
        "parameter_count": record.workload.parameters if record.workload else None,
        "data_sha256": record.workload.data_sha256 if record.workload else None,
        "final_loss": float(np.mean(last)) if last else None,
        "skipped_steps": max((rank.skipped_steps for rank in record.ranks), default=None),
        "parity_passed": record.parity.passed if record.parity else None,
        "unmatched": _plain(record.unmatched),
    }


def _contract(record: Record) -> dict[str, object]:
    facts = record.contract.model_dump(mode="json") if record.contract else dict.fromkeys(Contract.model_fields)
    return {f"contract_{name}": _plain(value) for name, value in facts.items()}


def _plain(value: object) -> object:
    """Lists and mappings as JSON text, so that every column can be grouped by."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list, tuple)) else value
