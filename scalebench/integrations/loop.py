"""What loop is recorded: the spec that stands for it, its place, and the model it trains."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import nn

from scalebench.adapters.optimizers import config_of
from scalebench.errors import UserError
from scalebench.harness.placement import Place, keep_freed_memory, pin_to_cores
from scalebench.machine import Machine, detect
from scalebench.matrix.cells import DEFAULT_MAX_SECONDS, DEFAULT_TARGET_PRECISION
from scalebench.records.record import Record, WorkloadFacts
from scalebench.spec import PlannedRun, RunSpec
from scalebench.strategies.config import OptimizerConfig

SCRIPT = "script"
OWN = "own"
UNSEEN = (
    "the loop is the user's own: its contract was not observed, its parity not checked, its waits for data not timed"
)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A loop of the user's own as a run."""

    spec: RunSpec
    place: Place
    machine: Machine
    facts: WorkloadFacts
    unmatched: list[str]

    def planned(self, repeat: int) -> PlannedRun:
        return PlannedRun(spec=self.spec, repeat=repeat)


def loop_of(model: nn.Module, like: Path | None, named: str, optimizer: Any, given: dict[str, Any]) -> Loop:
    """The loop that trains `model`, described by `given`, and for the rest by the record at `like`.

    Raises UserError for an argument that is none of a spec's or of WorkloadFacts', or has a wrong value.
    """
    place = place_of(model)
    machine = detect("cuda" if place.device.type == "cuda" else "cpu")  # before this process is pinned to a part of it
    other = read_like(like) if like else None
    about_model = {name: given.pop(name) for name in WorkloadFacts.model_fields if name in given}
    settings, notes = _settings(place, other, named, optimizer)
    unknown = sorted(set(given) - set(RunSpec.model_fields))
    if unknown:
        raise UserError(
            f"Recorder has no argument '{unknown[0]}'. Its arguments are fields of a spec: micro_batch, ..."
        )
    try:
        spec = RunSpec(**(settings | given))
        known = other.workload.model_dump() if other and other.workload else _unknown_data(named)
        facts = WorkloadFacts(**(known | {"parameters": count_parameters(model)} | about_model))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"Recorder: {'.'.join(map(str, first['loc'])) or 'arguments'}: {first['msg']}.") from None
    if other and other.spec.device == "cpu":
        settle(spec, place)
    return Loop(spec=spec, place=place, machine=machine, facts=facts, unmatched=[UNSEEN, *notes])


def place_of(model: nn.Module) -> Place:
    """This process's place: as its process group and its launcher's variables say, alone without either.

    Raises UserError for a model without parameters, and where a launcher's ranks have no process group yet.
    """
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise UserError("the model given to Recorder has no parameters.")
    joined = dist.is_initialized()
    if not joined and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("Recorder is made before the process group, without which ranks are alone. Make it after.")
    return Place(
        rank=dist.get_rank() if joined else 0,
        local_rank=int(os.environ.get("LOCAL_RANK", 0)),
        world_size=dist.get_world_size() if joined else 1,
        device=parameter.device,
    )


def settle(spec: RunSpec, place: Place) -> None:
    """Give this process the threads, cores and allocator that the runs have beside which it is to stand."""
    pin_to_cores(place.local_rank, spec.cores_per_rank)
    torch.set_num_threads(spec.threads_per_rank or 1)
    keep_freed_memory()


def read_like(path: Path) -> Record:
    """The record of a run at `path`. Raises UserError."""
    try:
        record = Record.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"like='{path}' is no record of scalebench: {str(error).splitlines()[0]}.") from None
    if record.kind != "run":
        raise UserError(f"like='{path}' is of a {record.kind}, not of a run.")
    return record


def _settings(place: Place, other: Record | None, named: str, optimizer: Any) -> tuple[dict[str, Any], list[str]]:
    """The fields of the spec unless given otherwise, and what they do not say."""
    own = {
        "strategy": named,
        "strategy_options": {},
        "world_size": place.world_size,
        "device": place.device.type,
        "diagnostics": False,
    }
    if other:
        return other.spec.model_dump() | own, []
    config, notes = _optimizer(optimizer)
    script = Path(sys.argv[0]).stem or OWN
    return own | {
        "workload": script.replace(":", "-"),
        "size": OWN,
        "data": OWN,
        "threads_per_rank": torch.get_num_threads() if place.device.type == "cpu" else None,
        "optimizer": config,
        "clip_norm": None,
        "warmup_steps": None,
        "steps": None,
        "target_precision": DEFAULT_TARGET_PRECISION,
        "max_seconds": DEFAULT_MAX_SECONDS,
    }, notes


def _optimizer(optimizer: Any) -> tuple[OptimizerConfig, list[str]]:
    if optimizer is None:
        return OptimizerConfig(), ["its optimizer is not known: that of the spec is none but a default"]
    try:
        return config_of(unwrapped(optimizer)), []
    except UserError:
        kind = type(unwrapped(optimizer)).__name__
        return OptimizerConfig(), [f"its optimizer is {kind}, which a spec cannot say: that of the spec is a default"]


def unwrapped(optimizer: Any) -> Any:
    """The torch optimizer inside those of Accelerate, Lightning and DeepSpeed, which call it so."""
    return unwrapped(optimizer.optimizer) if hasattr(optimizer, "optimizer") else optimizer


def _unknown_data(named: str) -> dict[str, Any]:
    return {"item": "sample", "items_per_sample": 1, "data_name": f"of the {named}", "data_samples": 0}


def count_parameters(model: nn.Module) -> int:
    """Parameters of the whole model, wherever its shards are (FSDP1's flat ones are counted as this rank has them)."""
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters())
