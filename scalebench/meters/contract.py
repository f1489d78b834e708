"""The contract: what a run was made of, observed on the running model, and whether that is what was asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scalebench import compat, strategies
from scalebench.meters.observer import Issued, StepObserver, dtype_name, dtypes, joined
from scalebench.records.record import Contract
from scalebench.spec import RunSpec
from scalebench.strategies.base import Batch, TrainStep
from scalebench.strategies.construct import compute_dtype, parameter_dtype

WRAPPERS: dict[str, str] = {
    "ddp:DDP": "DistributedDataParallel",
    "fsdp:FSDP": "FSDPModule",
    "fsdp1:FSDP1": "FullyShardedDataParallel",
    "deepspeed:DeepSpeed": "DeepSpeedEngine",
}
"""Class of strategy to the class its module must be of. `single` must be of none of them; others are not known."""

OPTIMIZERS = {"adamw": "AdamW(fused)", "sgd": "SGD(foreach)"}
"""The one implementation that all strategies build."""

COMPRESSING_OPTIONS = {"gradient_compression", "config"}
"""Options of strategies by which a person may ask for gradients of another dtype between ranks."""

FEW_SAMPLES = 2
"""As few as a norm over the batch takes."""

GLOO_NOTE = "a reduce-scatter as torch issues it (c10d), which gloo sends as an all-reduce"
UNCOMPILED_NOTE = "compiled regions ran uncompiled under observation, so FLOPs and tensor peak are left out"


def watch(step: TrainStep, micro_batches: Sequence[Batch], device: torch.device) -> StepObserver:
    """Run one optimizer step under observation. Collective, and off the clock: it is slow.

    The step must have run before, so that nothing is set up lazily in this one. It trains the model one step further.
    Compiled regions run as they were written, which can take more memory than there is: with a few samples.
    """
    observer = StepObserver(step, device)
    compiled = compat.compiled_graphs() > 0
    seen = [few(batch) for batch in micro_batches] if compiled else micro_batches
    with uncompiled(compiled), observer.watching():
        step(seen)
    return observer


def few(batch: Batch) -> Batch:
    """The first samples of a batch; all of it where its tensors do not agree on how many there are."""
    counts = {tensor.shape[:1] for tensor in batch.values()}
    return {name: tensor[:FEW_SAMPLES] for name, tensor in batch.items()} if len(counts) == 1 else batch


def contract_of(observer: StepObserver, step: TrainStep, spec: RunSpec, device: torch.device) -> Contract:
    """What `observer` saw in a step."""
    regions = compat.compiled_graphs()
    return Contract(
        **precision(step, observer, device),
        **communication(observer, spec),
        wrapper=wrapper(step.module),
        optimizer=f"{type(step.optimizer).__name__}({observer.optimizer_kernel or 'unknown'})",
        profile=spec.profile,
        compiled_regions=regions,
        recomputed=len(observer.recomputed),
        flops_per_step=None if regions else float(sum(observer.flops.values())),
        offloaded=offloaded(step, observer, device),
        observer_notes=notes(observer, regions),
    )


@contextlib.contextmanager
def uncompiled(needed: bool) -> Iterator[None]:
    """Run compiled regions as they were written: what is compiled no observer sees."""
    with torch.compiler.set_stance("force_eager") if needed else contextlib.nullcontext():
        yield


def precision(step: TrainStep, observer: StepObserver, device: torch.device) -> dict[str, Any]:
    """The dtypes of everything, and who casts."""
    parameter, master = joined_dtypes(step.module.parameters()), joined(sorted(observer.updated))
    compute = joined(name for name, _ in observer.flops.most_common())
    # DeepSpeed sums micro-batches in buffers of its own, which only it knows.
    accumulation = step.observed_precision().get("gradient_accumulation") or joined(sorted(observer.gradients))
    return {
        "parameter": parameter or "none",
        "compute": "tf32" if compute == "float32" and uses_tf32(device) else compute,
        "gradient_accumulation": accumulation,
        "optimizer_state": joined_dtypes(optimizer_state(step)),
        "master": master,
        "casting": casting(observer, parameter, compute, master),
    }


def casting(observer: StepObserver, parameter: str | None, compute: str | None, master: str | None) -> str:
    """Who turns fp32 values into 16-bit ones: torch.autocast, the gathering of shards, the engine; or `none`."""
    if observer.autocast:
        return "autocast"
    if parameter != compute:
        return "sharded-cast"
    return "engine-cast" if master != parameter else "none"


def communication(observer: StepObserver, spec: RunSpec) -> dict[str, Any]:
    """How many ranks there are, and which gradients crossed between them on which micro-batches."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    reductions = gradient_reductions(observer)
    synced = {issued.micro_batch for issued in reductions}
    crossed = [index in synced for index in range(observer.micro_batches)]
    return {
        "world_size": ranks,
        "micro_batches": len(crossed),
        "gradient_reduce": joined(sorted({issued.dtype for issued in reductions})) if ranks > 1 else None,
        "sync_micro_batches": sum(crossed) if ranks > 1 else None,
        "grad_sync": grad_sync(crossed) if ranks > 1 and len(crossed) > 1 else spec.grad_sync,
    }


def gradient_reductions(observer: StepObserver) -> list[Issued]:
    """The collectives that reduce gradients: floating-point values, too many to be flags or norms."""
    return [
        issued
        for issued in observer.collectives
        if "reduce" in issued.kind and "float" in issued.dtype and not issued.control and issued.micro_batch >= 0
    ]


def grad_sync(crossed: Sequence[bool]) -> str:
    """The rule by which gradients crossed ranks, from whether they did on each of several micro-batches."""
    if all(crossed):
        return "every_micro_batch"
    return "last" if crossed[-1] and not any(crossed[:-1]) else f"{sum(crossed)} of {len(crossed)}"


def notes(observer: StepObserver, regions: int) -> list[str]:
    """What was not observed as it runs, and why."""
    translated = (
        dist.is_initialized()
        and dist.get_backend() == "gloo"
        and any(issued.kind == "reduce_scatter" for issued in gradient_reductions(observer))
    )
    return [GLOO_NOTE] * translated + [UNCOMPILED_NOTE] * (regions > 0)


def wrapper(module: torch.nn.Module) -> str:
    """The outermost known wrapper around or inside the module, else its own class."""
    for inner in module.modules():
        for base in type(inner).__mro__:
            if base.__name__ in WRAPPERS.values():
                return base.__name__
    return type(module).__name__


def optimizer_state(step: TrainStep) -> list[Tensor]:
    """The optimizer's moments; not its step counters, which are fp32 whatever the rest is."""
    named = [item for values in step.optimizer.state.values() for item in values.items()]
    return [value for name, value in named if isinstance(value, Tensor) and name != "step"]


def offloaded(step: TrainStep, observer: StepObserver, device: torch.device) -> bool:
    """Whether the optimizer works on the CPU by way of a backend's offload."""
    return compat.offloads_to_cpu(step.module) if device.type == "cpu" else "cpu" in observer.updated_on


def uses_tf32(device: torch.device) -> bool:
    """Whether fp32 matrix products are computed in TF32 here: only on CUDA, and only when switched on."""
    return device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"


def joined_dtypes(tensors: Iterable[Tensor]) -> str | None:
    """The dtypes of floating-point tensors, each once; None when there are none."""
    return joined(sorted({name for tensor in tensors for name in dtypes(tensor)}))


def contradictions(spec: RunSpec, contract: Contract) -> list[str]:
    """Every way in which what ran is not what was asked, one clause each: `asked X, observed Y`."""
    observed = contract.model_dump() | {
        "wrapper": contract.wrapper if contract.wrapper in WRAPPERS.values() else None,
        "activation_checkpointing": contract.recomputed > 0,
        "compile": contract.compiled_regions > 0,
    }
    return [
        f"asked {PHRASES[name].format(' or '.join(map(said, allowed)))}, observed {said(observed[name])}"
        for name, allowed in expectations(spec).items()
        if observed[name] not in allowed
    ]


PHRASES = {
    "parameter": "parameters in {}",
    "compute": "matrix products in {}",
    "gradient_reduce": "gradients reduced in {}",
    "gradient_accumulation": "gradients accumulated in {}",
    "optimizer_state": "optimizer state in {}",
    "master": "updates of values in {}",
    "world_size": "{} ranks",
    "micro_batches": "{} forward passes in a step",
    "grad_sync": "gradients reduced on micro-batches: {}",
    "optimizer": "optimizer {}",
    "wrapper": "wrapper {}",
    "offloaded": "offload {}",
    "activation_checkpointing": "activation checkpointing {}",
    "compile": "compilation {}",
}
"""What each expectation is about, for people."""


def said(value: object) -> str:
    """A value as people say it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def expectations(spec: RunSpec) -> dict[str, tuple[object, ...]]:
    """The values that `spec` allows, by what they are of."""
    return (
        expected_dtypes(spec)
        | expected_backend(spec)
        | {
            "world_size": (spec.world_size,),
            "micro_batches": (spec.accumulation,),
            "grad_sync": (spec.grad_sync,),
            "activation_checkpointing": (spec.activation_checkpointing,),
            "compile": (spec.compile,),
        }
    )


def expected_dtypes(spec: RunSpec) -> dict[str, tuple[object, ...]]:
    """What a precision's word promises; where it leaves a backend the choice, several."""
    config = spec.train_config()
    stored, computed = dtype_name(parameter_dtype(config)), dtype_name(compute_dtype(config))
    between = tuple(dict.fromkeys((stored, computed)))
    summed = tuple(dict.fromkeys(("float32", *between)))
    allowed: dict[str, tuple[object, ...]] = {
        "parameter": between,  # engines keep 16-bit parameters beside fp32 masters
        "compute": ("tf32",) if spec.tf32 and spec.device == "cuda" else (computed,),
        "gradient_accumulation": summed,
        "optimizer_state": (stored if spec.optimizer.name == "adamw" or spec.optimizer.momentum else None,),
        "master": (stored,),
    }
    if not COMPRESSING_OPTIONS & spec.strategy_options.keys():
        allowed["gradient_reduce"] = summed if spec.world_size > 1 else (None,)
    return allowed


def expected_backend(spec: RunSpec) -> dict[str, tuple[object, ...]]:
    """Wrapper and offload, for the strategies we know; the optimizer, for all."""
    allowed: dict[str, tuple[object, ...]] = {"optimizer": (OPTIMIZERS[spec.optimizer.name],)}
    target = strategies.entry(strategies.raw_name(spec.strategy)).target
    if target == "single:Single" or target in WRAPPERS:
        strategy = strategies.create(spec.strategy, spec.strategy_options)
        allowed |= {"wrapper": (WRAPPERS.get(target),), "offloaded": (strategy.offloads,)}
    return allowed
