"""What a rank's memory is needed for, per strategy and its options: bytes by the categories that are measured too.

The states of a mixed-precision step as in Rajbhandari et al. 2020 (ZeRO, arXiv:1910.02054, section 3.1), with the
paddings and second copies that the installed backends really make. Buffers and activations are those of the fullest
moment; what is on the way for a moment only (`other`: gradients of activations, temporaries) has no formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from scalebench.theory import zero3
from scalebench.theory.activations import Saved
from scalebench.theory.communication import AFTER_BACKWARD_BUCKET, flat_elements, flat_group
from scalebench.theory.model import Model, Parameter
from scalebench.theory.scheme import ElementBytes, FlatSharded, FullySharded, Replicated, Scheme, Zero


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one rank. None: no formula.

    Attributes:
        parameters: kept between steps. optimizer_state: moments, and a second copy of the parameters if there is one.
        gradients: when the update begins.
        communication_buffers: buckets, and parameters gathered from shards, at the fullest moment.
        activations: kept by the forward pass at its end.
        other: gradients of the last activations, when the backward pass begins; moving averages of the parameters.
        peak: of everything together, at the turn from forward to backward or near its end, whichever holds more.
    """

    parameters: int
    optimizer_state: int
    gradients: int
    communication_buffers: int
    activations: int | None
    other: int | None
    peak: int | None


def memory(model: Model, scheme: Scheme, saved: Saved | None, micro_batch: int) -> Memory:
    """What one rank needs for micro-batches of `micro_batch` samples."""
    element, updated = scheme.bytes, updated_elements(model, scheme)
    parameters = parameter_elements(model, scheme) * element.parameter
    state = updated * (scheme.moments * element.state + element.master)
    gradients, buffers = _gradients(model, scheme, updated), _buffers(model, scheme)
    activations = _activations(model, scheme, saved, micro_batch)
    averages = updated * scheme.average
    other = micro_batch * saved.turn.bytes(compute=0, residual=0) + averages if saved else None
    peak = None
    if saved and activations is not None and other is not None:
        turn = buffers.at_turn + activations + other + _resident_gradients(model, scheme, gradients)
        block = micro_batch * saved.block.bytes(**_kept_bytes(scheme)) if scheme.checkpointing else 0
        peak = parameters + state + max(turn, averages + buffers.standing + gradients + max(buffers.in_transit, block))
    return Memory(
        parameters=parameters,
        optimizer_state=state,
        gradients=gradients,
        communication_buffers=buffers.standing + buffers.in_transit,
        activations=activations,
        other=other,
        peak=peak,
    )


def parameter_elements(model: Model, scheme: Scheme) -> int:
    """Elements of the parameters that a rank keeps between steps, paddings included."""
    match scheme.sharding:
        case FullySharded(shard_ranks=ranks):
            return sum(parameter.sharded_rows(ranks) for parameter in model.parameters)
        case FlatSharded():
            return sum(flat_elements(unit, scheme) for unit in _units(model)) // scheme.ranks
        case Zero(stage=1 | 2):
            return sum(flat_group(group, scheme.ranks) for group in model.groups())
        case Zero(stage=3) as zero:
            whole = sum(p.elements for p in model.pick(zero3.persistent(model, zero))) if scheme.ranks > 1 else 0
            return _partitions(model, scheme.ranks) + whole
    return model.elements


def updated_elements(model: Model, scheme: Scheme) -> int:
    """Elements that a rank's optimizer updates: its share of what is sharded."""
    match scheme.sharding:
        case Zero(stage=1 | 2):
            return parameter_elements(model, scheme) // scheme.ranks
        case Zero(stage=3):
            return _partitions(model, scheme.ranks)
    return parameter_elements(model, scheme)


def _units(model: Model) -> list[list[Parameter]]:
    return [model.pick(unit) for unit in (*model.blocks, model.rest)]


def _partitions(model: Model, ranks: int) -> int:
    """ZeRO-3 cuts each parameter by itself."""
    return sum(ceil(parameter.elements / ranks) for parameter in model.parameters)


def _gradients(model: Model, scheme: Scheme, updated: int) -> int:
    """Where 16-bit gradients are summed in fp32 and nothing is cut, each rank has both of them whole."""
    zero = scheme.sharding
    if isinstance(zero, Zero) and zero.stage == 1 and zero.after_backward:
        return _accumulators(model, scheme, zero) + model.elements * scheme.bytes.parameter
    return updated * scheme.bytes.gradient


def _accumulators(model: Model, scheme: Scheme, zero: Zero) -> int:
    """Buffers of DeepSpeed's in which gradients are summed, there from the start."""
    if zero.stage == 3:
        return _partitions(model, scheme.ranks) * scheme.bytes.gradient
    if zero.stage == 1 and zero.after_backward:
        return sum(flat_group(group, scheme.ranks) for group in model.groups()) * scheme.bytes.gradient
    return 0


def _resident_gradients(model: Model, scheme: Scheme, gradients: int) -> int:
    """Gradients that are there at the turn from forward to backward: buffers that always are, and those of earlier
    micro-batches, whole where they were not reduced yet."""
    zero = scheme.sharding if isinstance(scheme.sharding, Zero) else None
    if scheme.accumulation == 1:
        return _accumulators(model, scheme, zero) if zero else 0
    if isinstance(scheme.sharding, FullySharded | FlatSharded) and scheme.reductions < scheme.accumulation:
        return model.elements * scheme.bytes.reduce
    if zero and zero.stage < 2:
        return model.elements * scheme.bytes.parameter + _accumulators(model, scheme, zero)
    return gradients


@dataclass(frozen=True, kw_only=True)
class _Buffers:
    """Bytes that stand through the backward pass, those of them there when it begins, and of what is just being
    reduced."""

    standing: int = 0
    at_turn: int = 0
    in_transit: int = 0


def _buffers(model: Model, scheme: Scheme) -> _Buffers:
    match scheme.sharding:
        case Replicated() as ddp:
            return _standing(model.elements * scheme.bytes.gradient if ddp.wrapped else 0)
        case FullySharded() as fsdp:
            ranks = fsdp.shard_ranks
            units = [ranks * sum(p.sharded_rows(ranks) for p in unit) for unit in _units(model)]
            return _gathered(units, ranks, fsdp.reshard_ranks > 1, scheme.bytes)
        case FlatSharded() as flat:
            units = [flat_elements(unit, scheme) for unit in _units(model)]
            return _gathered(units, scheme.ranks, flat.reshard_after_forward, scheme.bytes)
        case Zero() as zero:
            return _zero_buffers(model, scheme, zero)


def _standing(whole: int, in_transit: int = 0) -> _Buffers:
    """Buffers that are there from the beginning."""
    return _Buffers(standing=whole, at_turn=whole, in_transit=in_transit)


def _gathered(units: list[int], ranks: int, resharded: bool, element: ElementBytes) -> _Buffers:
    """The root stays gathered; with it two blocks, one of them on its way, or all of them and one on its way. When the
    backward pass begins that is the last one, or all."""
    *blocks, root = units
    if ranks == 1:
        return _Buffers()
    largest, every = max(blocks, default=0), sum(blocks)
    live = root + (min(2 * largest, every) if resharded else every + largest)
    at_turn = root + (largest if resharded else every)
    return _Buffers(
        standing=live * element.compute, at_turn=at_turn * element.compute, in_transit=largest * element.reduce
    )


def _zero_buffers(model: Model, scheme: Scheme, zero: Zero) -> _Buffers:
    """A buffer of the whole bucket size, used or not, two where reduction overlaps below stage 3; a bucket's copy on
    its way; and at stage 3 what the coordinator keeps gathered."""
    bucket = AFTER_BACKWARD_BUCKET if zero.after_backward else zero.reduce_bucket_size
    in_transit = min(bucket, model.elements) * scheme.bytes.reduce
    if zero.after_backward:
        return _Buffers(in_transit=in_transit)
    if zero.stage < 3:
        copies = (1 + zero.overlap_comm) * zero.contiguous_gradients
        return _standing(copies * bucket * scheme.bytes.parameter, in_transit)
    live = 0
    if scheme.ranks > 1:
        live = zero3.most_gathered(model, zero, checkpointing=scheme.checkpointing, accumulation=scheme.accumulation)
    fixed = bucket * scheme.bytes.reduce * zero.contiguous_gradients
    return _standing(fixed + live * scheme.bytes.compute, in_transit)


def _activations(model: Model, scheme: Scheme, saved: Saved | None, micro_batch: int) -> int | None:
    """Autocast keeps a 16-bit copy of each weight from the forward pass to the end of the backward pass."""
    if saved is None:
        return None
    kept = saved.bytes(**_kept_bytes(scheme), checkpointing=scheme.checkpointing)
    return micro_batch * kept + (model.elements * scheme.bytes.compute if _autocasts(scheme) else 0)


def _kept_bytes(scheme: Scheme) -> dict[str, int]:
    """Bytes of an element in the dtype of matrix products, and in that of the residual stream: autocast leaves it as
    the parameters are."""
    residual = scheme.bytes.parameter if _autocasts(scheme) else scheme.bytes.compute
    return {"compute": scheme.bytes.compute, "residual": residual}


def _autocasts(scheme: Scheme) -> bool:
    """Whether torch's autocast casts, rather than the wrapper or the engine the whole model."""
    by_torch = isinstance(scheme.sharding, Replicated) or (
        isinstance(scheme.sharding, Zero) and scheme.sharding.stage == 0
    )
    return by_torch and scheme.bytes.compute < scheme.bytes.parameter
