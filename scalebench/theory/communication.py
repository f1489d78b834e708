"""What a step sends between ranks: per kind of collective how many, their payload, and the bytes on the wire.

Payload is what one rank hands to torch (c10d) or gets from it, the larger of the two: the whole tensor of an
all-reduce, what an all-gather returns, what a reduce-scatter takes. By these sizes nccl-tests reckons bandwidth.
Only gradients, parameters and buffers are counted, not the few values by which ranks agree on a norm or an overflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from scalebench.theory import zero3
from scalebench.theory.model import Model, Parameter
from scalebench.theory.scheme import Backend, FlatSharded, FullySharded, Replicated, Scheme, Zero

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce", "all_to_all"]

AFTER_BACKWARD_BUCKET = 500_000_000
"""Elements per bucket when DeepSpeed reduces after the backward pass."""
FLAT_ALIGNMENT_BYTES = 16
"""FSDP1 lets every original parameter begin at such an address of its flat one."""


@dataclass(frozen=True, kw_only=True)
class Collectives:
    """All collectives of one kind over one size of group in one step: how many, and their payload in bytes."""

    kind: Kind
    ranks: int
    count: int
    payload_bytes: int


def traffic(model: Model, scheme: Scheme) -> list[Collectives]:
    """The collectives of one optimizer step of one rank, by kind and group size; nothing on one rank alone."""
    match scheme.sharding:
        case Replicated():
            calls = _replicated(model, scheme, scheme.sharding)
        case FullySharded():
            calls = _fully_sharded(model, scheme, scheme.sharding)
        case FlatSharded():
            calls = _flat_sharded(model, scheme, scheme.sharding)
        case Zero():
            calls = _zero(model, scheme, scheme.sharding)
    return _sum(call for call in calls if call.ranks > 1)


def payload_bytes(collectives: Iterable[Collectives]) -> int:
    """The payload of all of them together."""
    return sum(c.payload_bytes for c in collectives)


def wire_bytes(collectives: Iterable[Collectives], backend: Backend) -> float:
    """Bytes that one rank sends for `collectives`, the mean over ranks."""
    return sum(c.payload_bytes * wire_share(c.kind, c.ranks, backend) for c in collectives)


def wire_share(kind: Kind, ranks: int, backend: Backend) -> float:
    """Bytes that a rank sends per byte of payload, the mean over ranks.

    With rings, as in Patarasuk and Yuan 2009 (doi:10.1016/j.jpdc.2008.09.002): all-reduce 2 (n-1)/n, its two halves
    reduce-scatter and all-gather (n-1)/n each. To send a tensor to or from one rank takes n-1 copies of it in all,
    which is (n-1)/n per rank. gloo has no reduce-scatter in torch: it does an all-reduce and throws the rest away.
    """
    twice = kind == "all_reduce" or (kind == "reduce_scatter" and backend == "gloo")
    return (2 if twice else 1) * (ranks - 1) / ranks


def bus_share(kind: Kind, ranks: int) -> float:
    """nccl-tests' factor from algorithm to bus bandwidth (doc/PERFORMANCE.md): what a ring at its best would send."""
    if kind in ("broadcast", "reduce"):
        return 1.0
    return (2 if kind == "all_reduce" else 1) * (ranks - 1) / ranks


def _call(kind: Kind, ranks: int, payload: float, count: int = 1) -> Collectives:
    return Collectives(kind=kind, ranks=ranks, count=count, payload_bytes=count * int(payload))


def _sum(calls: Iterable[Collectives]) -> list[Collectives]:
    found: dict[tuple[Kind, int], Collectives] = {}
    for call in calls:
        key = call.kind, call.ranks
        so_far = found.get(key, Collectives(kind=call.kind, ranks=call.ranks, count=0, payload_bytes=0))
        found[key] = Collectives(
            kind=call.kind,
            ranks=call.ranks,
            count=so_far.count + call.count,
            payload_bytes=so_far.payload_bytes + call.payload_bytes,
        )
    return [found[key] for key in sorted(found)]


def _replicated(model: Model, scheme: Scheme, ddp: Replicated) -> Iterator[Collectives]:
    """Li et al. 2020 (arXiv:2006.15704): gradients all-reduced in buckets, buffers broadcast before the forward."""
    if not ddp.wrapped:
        return
    if model.buffer_bytes:
        yield _call("broadcast", scheme.ranks, model.buffer_bytes, scheme.reductions)
    for bucket in ddp_buckets(model.backward_order(), ddp, scheme.bytes.gradient):
        whole, factors = _low_rank(bucket, ddp.low_rank)
        for elements in (whole, *factors):
            if elements:
                yield _call("all_reduce", scheme.ranks, elements * scheme.bytes.reduce, scheme.reductions)


def ddp_buckets(ready: Sequence[Parameter], ddp: Replicated, element_bytes: int) -> list[list[Parameter]]:
    """`ready` in DistributedDataParallel's buckets: each is closed by the gradient with which it reaches its size.

    torch goes by the order in which gradients get ready. Were it another than was told here, a boundary would lie
    elsewhere, which could make one bucket more or less, of the same bytes in all.
    """
    buckets: list[list[Parameter]] = [[]]
    size, limit = 0, ddp.first_bucket_bytes
    for parameter in ready:
        buckets[-1].append(parameter)
        size += parameter.elements * element_bytes
        if size >= limit:
            buckets.append([])
            size, limit = 0, ddp.bucket_bytes
    return [bucket for bucket in buckets if bucket]


def _low_rank(bucket: Iterable[Parameter], rank: int) -> tuple[int, tuple[int, int]]:
    """Elements of a bucket sent whole, and of the two factors of the rest (PowerSGD; only what halves is factored)."""
    whole, left, right = 0, 0, 0
    for parameter in bucket:
        rows = parameter.shape[0] if parameter.shape else 1
        columns = parameter.elements // max(rows, 1)
        if rank and len(parameter.shape) > 1 and 2 * (rows + columns) * rank < parameter.elements:
            left, right = left + rows * rank, right + columns * rank
        else:
            whole += parameter.elements
    return whole, (left, right)


def _fully_sharded(model: Model, scheme: Scheme, fsdp: FullySharded) -> Iterator[Collectives]:
    """FSDP2: each block is gathered for the forward pass, again for the backward pass if it was resharded, and its
    gradients are reduced and scattered; the root, whatever lies outside of the blocks, is gathered once."""
    group, replicas = fsdp.shard_ranks, scheme.ranks // fsdp.shard_ranks
    units = [(block, fsdp.reshard_ranks) for block in model.blocks] + [(model.rest, 1)]
    for unit, again in units:
        parameters = model.pick(unit)
        shard = sum(p.sharded_rows(group) for p in parameters)
        yield _call("all_gather", group, group * shard * scheme.bytes.compute, scheme.accumulation)
        if again > 1:
            regathered = again * sum(p.sharded_rows(group) * group // again for p in parameters)
            yield _call("all_gather", again, regathered * scheme.bytes.compute, scheme.accumulation)
        yield _call("reduce_scatter", group, group * shard * scheme.bytes.reduce, scheme.reductions)
        yield _call("all_reduce", replicas, shard * scheme.bytes.reduce, scheme.reductions)


def _flat_sharded(model: Model, scheme: Scheme, fsdp: FlatSharded) -> Iterator[Collectives]:
    """FSDP1 (Zhao et al. 2023, arXiv:2304.11277): as FSDP2, with one flat parameter per block.

    Without resharding, parameters stay gathered until gradients are reduced.
    """
    for unit in (*model.blocks, model.rest):
        elements = flat_elements(model.pick(unit), scheme)
        resharded = fsdp.reshard_after_forward and unit != model.rest
        forward = scheme.accumulation if fsdp.reshard_after_forward else scheme.reductions
        count = forward + (scheme.accumulation if resharded else 0)
        yield _call("all_gather", scheme.ranks, elements * scheme.bytes.compute, count)
        yield _call("reduce_scatter", scheme.ranks, elements * scheme.bytes.reduce, scheme.reductions)


def flat_elements(parameters: Iterable[Parameter], scheme: Scheme) -> int:
    """Elements of FSDP1's flat parameter: each begins aligned, the whole divides by the number of ranks."""
    align = FLAT_ALIGNMENT_BYTES // scheme.bytes.parameter
    total = 0
    for parameter in parameters:
        total = _padded(total, align) + parameter.elements
    return _padded(total, scheme.ranks)


def _zero(model: Model, scheme: Scheme, zero: Zero) -> Iterator[Collectives]:
    """Rajbhandari et al. 2020 (arXiv:1910.02054), as DeepSpeed 0.19 does it: below stage 3 gradients are all-reduced,
    not reduced to their owners, and from stage 1 on the updated parameters are gathered after the update."""
    if zero.stage == 3:
        yield from _zero3(model, scheme, zero)
        return
    yield from _zero_gradients(model, scheme, zero)
    if zero.stage:
        for group in model.groups():
            yield _call("all_gather", scheme.ranks, flat_group(group, scheme.ranks) * scheme.bytes.parameter)


def flat_group(group: Iterable[Parameter], ranks: int) -> int:
    """Elements of the flat buffer of an optimizer group, padded to twice the number of ranks (NCCL's alignment)."""
    return _padded(sum(p.elements for p in group), 2 * ranks)


def _zero_gradients(model: Model, scheme: Scheme, zero: Zero) -> Iterator[Collectives]:
    if zero.after_backward:
        flat = [flat_group(group, scheme.ranks) for group in model.groups()] if zero.stage else None
        sizes = flat or [parameter.elements for parameter in model.parameters]
        buckets = closed_by_excess(sizes, AFTER_BACKWARD_BUCKET)
    else:
        in_groups = zero.stage == 1 and not zero.overlap_comm
        ready = [p for group in model.groups() for p in group] if in_groups else model.backward_order()
        buckets = closed_before_excess([p.elements for p in ready], zero.reduce_bucket_size)
    for bucket in buckets:
        yield _call("all_reduce", scheme.ranks, sum(bucket) * scheme.bytes.reduce, scheme.reductions)


def _zero3(model: Model, scheme: Scheme, zero: Zero) -> Iterator[Collectives]:
    """One gather may hold many parameters, each padded to the number of ranks."""
    ranks, element = scheme.ranks, scheme.bytes
    whole = [_padded(parameter.elements, ranks) for parameter in model.parameters]
    steady = zero3.gathers(model, zero, checkpointing=scheme.checkpointing, accumulation=scheme.accumulation)
    for call in steady:
        yield _call("all_gather", ranks, sum(whole[i] for i in call) * element.compute, scheme.accumulation)
    for index in zero3.persistent(model, zero):
        yield _call("all_gather", ranks, whole[index] * element.parameter)
    ready = [p.elements for p in model.backward_order(weight_first=True)]
    for bucket in closed_before_excess(ready, zero.reduce_bucket_size):
        scattered = zero.reduce_scatter or not zero.contiguous_gradients
        kind: Kind = "reduce_scatter" if scattered else "all_reduce"
        elements = sum(_padded(size, ranks) for size in bucket) if scattered else sum(bucket)
        yield _call(kind, ranks, elements * element.reduce, scheme.reductions)


def closed_before_excess(sizes: Iterable[int], limit: int) -> list[list[int]]:
    """Buckets that are closed before they would exceed `limit`."""
    buckets: list[list[int]] = [[]]
    for size in sizes:
        if buckets[-1] and sum(buckets[-1]) + size > limit:
            buckets.append([])
        buckets[-1].append(size)
    return buckets


def closed_by_excess(sizes: Iterable[int], limit: int) -> list[list[int]]:
    """Buckets that are closed once they exceed `limit`."""
    buckets: list[list[int]] = [[]]
    for size in sizes:
        buckets[-1].append(size)
        if sum(buckets[-1]) > limit:
            buckets.append([])
    return [bucket for bucket in buckets if bucket]


def _padded(elements: int, multiple: int) -> int:
    return ceil(elements / multiple) * multiple
