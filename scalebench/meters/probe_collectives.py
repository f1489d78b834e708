"""Latency and bandwidth of every collective between the ranks, over sizes, through the process group that runs use."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from scalebench.meters.repeats import Repeats
from scalebench.records.probe import Collective, CollectiveFacts

GROWTH = 8
SIZES = {"cpu": tuple(64 * GROWTH**k for k in range(7)), "cuda": tuple(64 * GROWTH**k for k in range(9))}
"""Payloads in bytes, before they are rounded up to a whole number of elements per rank."""
FILL_SECONDS = 0.02
ELEMENT_BYTES = 4

# Named anew in torch 2.13, which warns of the older names; 2.6 knows those alone.
all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def measure_collectives(repeats: Repeats, left_out: dict[str, str]) -> Iterator[CollectiveFacts]:
    """Every collective over every size. What the backend refuses, or time does not allow, is named in `left_out`.

    Collective. Each size of all kinds comes before the next size, so that little time still gives every kind a line.
    """
    yield CollectiveFacts(kind="barrier", payload_bytes=0, seconds=[repeats.time(dist.barrier, FILL_SECONDS)])
    longest = dict.fromkeys(BUILDERS, 0.0)
    for size in SIZES[repeats.device.type]:
        for kind in list(longest):
            found = _measure(repeats, kind, size, longest[kind])
            if isinstance(found, str):
                left_out[f"{kind} from {size} bytes on"] = found
                del longest[kind]
            else:
                longest[kind] = GROWTH * repeats.agreed(statistics.median(found.seconds[0]))
                yield found


def _measure(repeats: Repeats, kind: Collective, size: int, expected_seconds: float) -> CollectiveFacts | str:
    """The facts, or why there are none."""
    reason = repeats.reason_to_stop(expected_seconds)
    if reason:
        return reason
    block = dist.get_world_size() * ELEMENT_BYTES
    payload = -(-size // block) * block
    try:
        seconds = repeats.time(BUILDERS[kind](payload // ELEMENT_BYTES, repeats.device), FILL_SECONDS)
    except RuntimeError as error:  # the backend refuses it, on every rank alike and before anything is sent
        return str(error).split("\n", 1)[0]
    return CollectiveFacts(kind=kind, payload_bytes=payload, seconds=[seconds])


Operation = Callable[[], object]


def _vector(elements: int, device: torch.device) -> Tensor:
    # Zeros stay zeros however often they are summed.
    return torch.zeros(elements, dtype=torch.float32, device=device)


def _all_reduce(elements: int, device: torch.device) -> Operation:
    whole = _vector(elements, device)
    return lambda: dist.all_reduce(whole)


def _all_gather(elements: int, device: torch.device) -> Operation:
    whole, own = _vector(elements, device), _vector(elements // dist.get_world_size(), device)
    return lambda: all_gather(whole, own)


def _reduce_scatter(elements: int, device: torch.device) -> Operation:
    whole, own = _vector(elements, device), _vector(elements // dist.get_world_size(), device)
    return lambda: reduce_scatter(own, whole)


def _broadcast(elements: int, device: torch.device) -> Operation:
    whole = _vector(elements, device)
    return lambda: dist.broadcast(whole, src=0)


def _reduce(elements: int, device: torch.device) -> Operation:
    whole = _vector(elements, device)
    return lambda: dist.reduce(whole, dst=0)


def _all_to_all(elements: int, device: torch.device) -> Operation:
    sent, received = _vector(elements, device), _vector(elements, device)
    return lambda: dist.all_to_all_single(received, sent)


def _ring(elements: int, device: torch.device) -> Operation:
    sent, received = _vector(elements, device), _vector(elements, device)
    rank, ranks = dist.get_rank(), dist.get_world_size()

    def run() -> None:
        pair = [dist.P2POp(dist.isend, sent, (rank + 1) % ranks), dist.P2POp(dist.irecv, received, (rank - 1) % ranks)]
        for work in dist.batch_isend_irecv(pair):
            work.wait()

    return run


BUILDERS: dict[Collective, Callable[[int, torch.device], Operation]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "broadcast": _broadcast,
    "reduce": _reduce,
    "all_to_all": _all_to_all,
    "ring": _ring,
}
