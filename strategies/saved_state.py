"""A training's state on disk, by the names of the unwrapped module: each rank writes its own share of it, and any torch
backend on any number of ranks can read it (torch.distributed.checkpoint). Nothing in a file is ever run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from .loss_scaling import LossScaler
from .safe_reading import CodeFoundError, SafePlanner, SafeReader

AVERAGES = "averages"
"""The folder, in that of a saved state, of the parameters' moving averages; of 16-bit ones there are more, numbered."""


def save_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: LossScaler) -> None:
    """Write what `load_state` needs into the empty `folder`. Collective; raises what writing raises, on every rank."""
    with _plainly():
        save(_state(module, optimizer, scaler), checkpoint_id=folder)


def load_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: LossScaler) -> None:
    """Make all three what they were when `folder` was written, whoever wrote it. Collective.

    Raises CodeFoundError where reading it would run code.
    """
    with _plainly():
        state = _state(module, optimizer, scaler)
        _load(state, folder)
        set_state_dict(module, optimizer, model_state_dict=state["module"], optim_state_dict=state["optimizer"])
    if scaler.is_enabled():
        scaler.load_state_dict(state["loss_scaling"])


def save_parameters(folder: Path, module: nn.Module) -> None:
    """Write parameters and buffers alone. Collective."""
    with _plainly():
        save({"module": get_model_state_dict(module)}, checkpoint_id=folder)


def load_parameters(folder: Path, module: nn.Module) -> None:
    """Take up what `save_parameters` has written. Collective."""
    with _plainly():
        state: dict[str, Any] = {"module": get_model_state_dict(module)}
        _load(state, folder)
        set_model_state_dict(module, state["module"])


def read_saved(folder: Path, like: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each parameter and buffer that `like` names, one at a time, of its dtype and shape, as `save_state` or
    `save_parameters` has written it. For a process without a group. Raises CodeFoundError.
    """
    reader = SafeReader(folder)
    for name, one in like.items():
        state = {"module": {name: torch.empty_like(one, device="cpu")}}
        with _plainly():
            load(state, storage_reader=reader, planner=SafePlanner())
        yield name, state["module"][name]


def _load(state: dict[str, Any], folder: Path) -> None:
    load(state, storage_reader=SafeReader(folder), planner=SafePlanner())


def _state(module: nn.Module, optimizer: torch.optim.Optimizer, scaler: LossScaler) -> dict[str, Any]:
    """Parameters, buffers and optimizer state, of which an optimizer that has not stepped yet gets an empty one."""
    parameters, moments = get_state_dict(module, optimizer)
    scaling = {"loss_scaling": scaler.state_dict()} if scaler.is_enabled() else {}
    return {"module": parameters, "optimizer": moments, **scaling}


@contextmanager
def _plainly() -> Iterator[None]:
    """Without torch's warnings (of one process without a group, of FSDP1's ways: both are meant), and with the error of
    the first rank that failed in place of torch's, which is no Exception.
    """
    logger = logging.getLogger("torch.distributed.checkpoint")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, CodeFoundError):
            raise cause from error
        raise RuntimeError(f"{type(cause).__name__}: {cause}") from error
    finally:
        logger.setLevel(level)
