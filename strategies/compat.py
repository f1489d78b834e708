"""Every private API of DeepSpeed that the strategies touch, in one place, each with the reason why.

Private names move between releases: what is here is tested against the installed
one, and nothing else may reach for them.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .safe_reading import read_plain

MASTERS = ("single_partition_of_fp32_groups", "fp32_groups_flat_partition", "fp32_partitioned_groups_flat")
"""Where ZeRO 1 and 2, bf16 at stage 1, and ZeRO 3 keep this rank's share of what the optimizer updates."""


def load_deepspeed(device: torch.device) -> Any:
    """The deepspeed package, imported for `device` without asking CUDA, probing compilers or building an extension.

    Raises:
        RuntimeError: it was imported earlier in this process for another kind of device.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    # Importing asks whether CUDA is there; asked through NVML, the answer leaves no context behind.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    deepspeed = importlib.import_module("deepspeed")
    chosen = deepspeed.accelerator.get_accelerator().device_name()
    if chosen != device.type:
        raise RuntimeError(
            f"deepspeed was imported for {chosen}, this run is on {device.type}: set DS_ACCELERATOR={device.type}"
        )
    # The first look at this table runs compilers, and an entry True makes init_distributed build the operator (75 s).
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    _log_warnings_to_stderr()
    return deepspeed


def _log_warnings_to_stderr() -> None:
    """DeepSpeed logs to standard output, where only results belong."""
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.__stdout__):
            handler.setStream(sys.stderr)


def join_process_group(deepspeed: Any, device: torch.device, timeout_seconds: float) -> None:
    """Let DeepSpeed use the process group that exists, with `timeout_seconds` for its own copy of it."""
    if device.type == "cuda":
        os.environ["LOCAL_RANK"] = str(device.index)  # to DeepSpeed the local rank is the number of the device
    os.environ.setdefault("LOCAL_RANK", "0")
    backend = deepspeed.accelerator.get_accelerator().communication_backend_name()
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    # It would clone the world itself on first use, but with torch's default timeout instead of the run's.
    groups: Any = importlib.import_module("deepspeed.utils.groups")
    groups._WORLD_GROUP = dist.new_group(range(dist.get_world_size()), timeout=timedelta(seconds=timeout_seconds))


@contextlib.contextmanager
def leaves_gather_only() -> Iterator[None]:
    """While an engine is built: let ZeRO-3's leaf modules say what is gathered together, not when gradients are ready.

    DeepSpeed takes a leaf's gradients when those of its inputs are there, and zero for those that are not: wrong for a
    weight tied to another leaf's, and for a leaf whose inputs need no gradient, such as an embedding.
    """
    stage3: Any = importlib.import_module("deepspeed.runtime.zero.stage3")
    original = stage3.z3_leaf_parameter
    stage3.z3_leaf_parameter = lambda parameter: False
    try:
        yield
    finally:
        stage3.z3_leaf_parameter = original


def keep_clipping_norm(engine: Any) -> None:
    """Make the engine keep the norm that its own clipping at stage 0 computes and throws away."""
    clip = importlib.import_module("deepspeed.runtime.utils").clip_grad_norm_

    def clip_and_keep() -> None:
        engine._global_grad_norm = clip(engine.module.parameters(), engine.gradient_clipping(), mpu=engine.mpu)

    engine.clip_fp32_gradients = clip_and_keep


def scale_losses(engine: Any, scaler: torch.amp.GradScaler) -> None:
    """Make an engine at stage 0 scale losses by `scaler` (its own, for fp16 autocast, counts no skipped step)."""
    engine.torch_autocast_z0_gradscaler = scaler


def autocast_dtype(engine: Any) -> str | None:
    """`bf16` or `fp16` when the engine runs its forward under torch's autocast, else None."""
    if not engine.torch_autocast_enabled():
        return None
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}[engine.torch_autocast_dtype()]


def read_without_code(engine: Any) -> None:
    """Let an engine make nothing but tensors, plain values and its own classes of the files that it loads."""

    def load(path: str, map_location: Any = None) -> Any:
        return read_plain(Path(path), map_location, saved_classes())

    engine.checkpoint_engine.load = load


def saved_classes() -> list[type]:
    """Those of DeepSpeed that are in its files."""
    scaler: Any = importlib.import_module("deepspeed.runtime.fp16.loss_scaler")
    fragment: Any = importlib.import_module("deepspeed.utils.tensor_fragment")
    zero: Any = importlib.import_module("deepspeed.runtime.zero.config")
    return [scaler.LossScaler, scaler.DynamicLossScaler, fragment.fragment_address, zero.ZeroStageEnum]


def is_offloaded(engine: Any) -> bool:
    """Whether the optimizer's state really lives on the CPU beside the model's device."""
    wrapper = engine.optimizer
    return bool(getattr(wrapper, "cpu_offload", False) or getattr(wrapper, "offload_optimizer", False))


def updated(engine: Any, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What this rank's optimizer updates: its share of the masters, or at stage 0 the parameters. ZeRO-3 gives them to
    the optimizer only while it updates."""
    for name in MASTERS:
        if hasattr(engine.optimizer, name):
            return list(getattr(engine.optimizer, name))
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def observed_precision(engine: Any) -> dict[str, str]:
    """Dtypes that only the engine knows, by the names of the contract."""
    if not engine.zero_optimization():
        return {}
    master = next(getattr(engine.optimizer, name)[0] for name in MASTERS if hasattr(engine.optimizer, name)).dtype
    dtypes = {"master": master, "gradient_accumulation": engine.get_data_types()[1]}
    return {name: str(dtype).removeprefix("torch.") for name, dtype in dtypes.items()}


def release(engine: Any) -> None:
    """Destroy the engine and undo what DeepSpeed leaves in the process: its linear, its autocast flag, its group."""
    engine.destroy()
    partition = importlib.import_module("deepspeed.runtime.zero.partition_parameters")
    original = getattr(partition.InsertPostInitMethodToModuleSubClasses, "linear_bk", None)
    if original is not None:
        torch.nn.functional.linear = original
    # While this is set, the next engine of this process would reduce Linear gradients in its dtype.
    autocast: Any = importlib.import_module("deepspeed.runtime.torch_autocast")
    autocast.TORCH_AUTOCAST_INITIALIZED = False
    groups: Any = importlib.import_module("deepspeed.utils.groups")
    if groups._WORLD_GROUP is not None:
        dist.destroy_process_group(groups._WORLD_GROUP)
        groups._WORLD_GROUP = None


def cpu_computes_fp16() -> bool:
    """Whether DeepSpeed takes fp16 on this CPU. It asks oneDNN, and so does this, without importing DeepSpeed."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    except (AttributeError, RuntimeError):
        return False
