"""A trained model as one file of named tensors (safetensors), whatever trained it; and back as a plain module."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from scalebench import workloads
from scalebench.adapters.own import OwnWorkload
from scalebench.adapters.root import PREFIX, unwrapped
from scalebench.errors import UserError
from scalebench.strategies import saved_state
from scalebench.strategies.base import TrainStep
from scalebench.strategies.construct import allocate_, named_state
from scalebench.training.failures import refused
from scalebench.training.manifest import (
    AVERAGES,
    STATE,
    WEIGHTS,
    Manifest,
    found_checkpoint,
    read_manifest,
)
from scalebench.training.tensor_file import write_tensors
from scalebench.training.whole import verify
from scalebench.workloads.base import Workload

WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_forward_module.")


def stored_as(workload: Workload) -> dict[str, Tensor]:
    """On meta, what is stored of each parameter (fp32) and buffer, by its name in the unwrapped module."""
    with torch.device("meta"):
        plain = workload.build()
    return {name: value.detach().float() for name, value in plain.named_parameters()} | dict(plain.named_buffers())


def write_weights(step: TrainStep, workload: Workload, file: Path, *, write: bool, ema: bool = False) -> None:
    """Write every parameter and buffer, one at a time, as `write_values` does. Collective.

    With `ema`, the moving averages.
    """
    parameters = step.full_parameters(ema=ema)
    if write:
        write_values(file, workload, chain(parameters, buffers(step, stored_as(workload))))
    else:
        for _ in parameters:
            pass


def write_values(file: Path, workload: Workload, values: Iterable[tuple[str, Tensor]]) -> None:
    """Write `values`, which are all that `stored_as` names, by the names that the model's author gave them."""
    write_tensors(file, dict(by_author(workload, stored_as(workload).items())), by_author(workload, values))


def by_author(workload: Workload, values: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """`values` by their names in the user's own module, where `workload` is of one."""
    prefix = PREFIX if isinstance(workload, OwnWorkload) else ""
    return ((name.removeprefix(prefix), value) for name, value in values)


def buffers(step: TrainStep, like: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """This rank's buffers, of those that `like` names."""
    for key, value in step.module.named_buffers():
        name = next((name for name in _ends(_plain(key)) if name in like), None)
        if name:
            yield name, value


def _ends(name: str) -> Iterator[str]:
    """`a.b.c`, `b.c` and `c`: what a wrapper puts before a name is of no interest."""
    while name:
        yield name
        name = name.partition(".")[2]


def _plain(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def load_checkpoint(path: str | Path, *, ema: bool = False) -> nn.Module:
    """The trained model of a checkpoint, or of the last one in a folder: a plain fp32 module on the CPU, in evaluation
    mode; with `ema` its moving averages. Of a user's own model it is the user's own module.

    Raises UserError when there is none, or it is damaged. Nothing in its files is run.
    """
    from safetensors.torch import load_file

    checkpoint = found_checkpoint(Path(path))
    manifest = read_manifest(checkpoint)
    file = consolidated_file(checkpoint, manifest, ema)
    workload = workload_of(manifest)
    return filled(
        workload,
        load_file(file) if file else dict(by_author(workload, sharded_values(checkpoint, manifest, ema))),
    )


def consolidated_file(checkpoint: Path, manifest: Manifest, ema: bool) -> Path | None:
    """The file with the weights, or their moving averages, of a checkpoint; None where there are only shards.

    Raises UserError when there is neither, or it is damaged.
    """
    if ema and manifest.spec.ema_decay is None:
        raise UserError(f"{checkpoint} holds no moving averages: it was trained without --ema-decay.")
    name = AVERAGES if ema else WEIGHTS
    verify(checkpoint, manifest, only=[name if name in manifest.files else f"{STATE}/"])
    return checkpoint / name if name in manifest.files else None


def sharded_values(checkpoint: Path, manifest: Manifest, ema: bool) -> Iterator[tuple[str, Tensor]]:
    """Each parameter and buffer, put together from what the ranks have saved, one at a time.

    Raises UserError where that cannot be.
    """
    like, state = stored_as(workload_of(manifest)), checkpoint / STATE
    with refused(checkpoint):
        if (state / ".metadata").is_file():
            yield from saved_state.read_saved(state / saved_state.AVERAGES if ema else state, like)
            return
        if ema:
            raise UserError(
                f"{checkpoint} holds its moving averages as DeepSpeed has shared them out, and cannot put them "
                "together. Train with --checkpoint-contents full."
            )
        yield from _of_deepspeed(state, like)


def _of_deepspeed(state: Path, like: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(f"{state} was saved by DeepSpeed, which is missing. Type: pip install deepspeed")
    from scalebench.strategies import deepspeed_saved

    return deepspeed_saved.read_saved(state, like)


def workload_of(manifest: Manifest) -> Workload:
    """What was trained."""
    spec = manifest.spec
    return workloads.create(spec.workload, spec.size, spec.workload_options)


def filled(workload: Workload, values: dict[str, Tensor]) -> nn.Module:
    """The module of `workload`, or the user's own in it, with `values`, in evaluation mode."""
    with torch.device("meta"):
        _, module = unwrapped(workload.build())
    allocate_(module, lambda old: torch.empty_like(old, device="cpu"))
    with torch.no_grad():
        for name, tensor in named_state(module):
            tensor.copy_(values[name])
    return module.eval()
