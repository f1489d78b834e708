"""A trained model as one file of named tensors (safetensors), whatever trained it; and back as a plain module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from scalebench import workloads
from scalebench.errors import UserError
from scalebench.strategies.base import TrainStep
from scalebench.strategies.construct import allocate_, named_state
from scalebench.training.manifest import AVERAGES, WEIGHTS, found_checkpoint, read_manifest, verify
from scalebench.workloads.base import Workload

WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_forward_module.")


def write_weights(step: TrainStep, workload: Workload, file: Path, *, write: bool, ema: bool = False) -> None:
    """Write every parameter, fp32, and every buffer, by their names in the unwrapped module. Collective.

    The rank that is to `write` holds the whole model in main memory for the time. With `ema`, the moving averages.
    """
    from safetensors.torch import save_file

    parameters = step.full_parameters(ema=True) if ema else step.full_parameters()
    if not write:
        for _ in parameters:
            pass
        return
    whole = {name: value.contiguous() for name, value in parameters}
    save_file(whole | dict(buffers(step, workload)), file)


def buffers(step: TrainStep, workload: Workload) -> Iterator[tuple[str, Tensor]]:
    """This rank's buffers, copied to the CPU."""
    with torch.device("meta"):
        plain = workload.build()
    wrapped = {_plain(name): value for name, value in step.module.named_buffers()}
    for name, _ in plain.named_buffers():
        found = next(value for key, value in wrapped.items() if key == name or key.endswith(f".{name}"))
        yield name, found.detach().to("cpu", copy=True)


def _plain(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def load_checkpoint(path: str | Path, *, ema: bool = False) -> nn.Module:
    """The trained model of a checkpoint, or of the last one in a folder: a plain fp32 module on the CPU, in evaluation
    mode; with `ema` its moving averages.

    Raises UserError when there is none, or it is damaged. Nothing in the file is run.
    """
    from safetensors.torch import load_file

    checkpoint = found_checkpoint(Path(path))
    manifest = read_manifest(checkpoint)
    file = AVERAGES if ema else WEIGHTS
    if file not in manifest.files:
        raise UserError(f"{checkpoint} holds no {file}." + (" It was trained without --ema-decay." if ema else ""))
    verify(checkpoint, manifest, only=[file])
    spec = manifest.spec
    workload = workloads.create(spec.workload, spec.size, spec.workload_options)
    return filled(workload, load_file(checkpoint / file))


def filled(workload: Workload, values: dict[str, Tensor]) -> nn.Module:
    """The module of `workload` with `values`, in evaluation mode."""
    with torch.device("meta"):
        module = workload.build()
    allocate_(module, lambda old: torch.empty_like(old, device="cpu"))
    with torch.no_grad():
        for name, tensor in named_state(module):
            tensor.copy_(values[name])
    return module.eval()
