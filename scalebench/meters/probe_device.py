"""What one device can do: rate of matrix products, bandwidth of its memory, copies from and to the host."""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from scalebench.meters.repeats import Repeats
from scalebench.records.probe import CopyFacts, Direction, Kernel, MatmulFacts, MemoryPassFacts, Number

DTYPES: dict[Number, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
MATMUL_SIZES = {"cpu": (256, 512, 1024, 2048), "cuda": (1024, 2048, 4096, 8192, 16384)}
SWEEP_SECONDS, SUSTAINED_SECONDS = 0.02, 0.2

PASS_SECONDS = 0.05
CACHE_MULTIPLE = 4
"""STREAM's rule: each array at least four times the last cache (McCalpin 1995)."""
SMALLEST_ARRAY, LARGEST_ARRAY = 64 * 2**20, 256 * 2**20
COPY_SIZES = tuple(2**power for power in (12, 16, 20, 24, 28))


def measure_matmul(repeats: Repeats, number: Number, left_out: dict[str, str]) -> Iterator[MatmulFacts]:
    """Square products over `MATMUL_SIZES` on all ranks at once, then the fastest size again and for longer. Collective.

    Ends early, with what there is and a word in `left_out`, when time is up or a product would take too long.
    """
    medians: dict[int, float] = {}
    with fp32_products_in_tf32(number == "tf32"):
        for size in MATMUL_SIZES[repeats.device.type]:
            reason = repeats.reason_to_stop(max(((size / n) ** 3 * t for n, t in medians.items()), default=0.0))
            if reason:
                left_out[f"{number} from size {size} on"] = reason
                break
            facts = _time_product(repeats, number, size, SWEEP_SECONDS)
            medians[size] = statistics.median(facts.seconds[0])
            yield facts
        if medians:
            facts = _time_product(repeats, number, fastest_on_all(repeats, medians), SUSTAINED_SECONDS)
            yield facts.model_copy(update={"sustained": True})


def _time_product(repeats: Repeats, number: Number, size: int, seconds: float) -> MatmulFacts:
    run = product(size, DTYPES[number], repeats.device)
    return MatmulFacts(number=number, size=size, seconds=[repeats.time(run, seconds)])


def fastest_on_all(repeats: Repeats, medians: dict[int, float]) -> int:
    """The size of the highest rate on the rank that is slowest at it."""
    slowest = {size: repeats.agreed(seconds) for size, seconds in medians.items()}
    return max(slowest, key=lambda size: size**3 / slowest[size])


def product(size: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """One product of two square matrices into a third."""
    # Random values: multiplying zeros draws less power, and so runs at higher clocks, than any training does.
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return partial(torch.mm, left, right, out=torch.empty_like(left))


@contextlib.contextmanager
def fp32_products_in_tf32(allowed: bool) -> Iterator[None]:
    """Inside, fp32 products on CUDA do, or do not, use TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def measure_memory(repeats: Repeats) -> Iterator[MemoryPassFacts]:
    """STREAM's copy and triad (McCalpin 1995) on all ranks at once. Collective."""
    size = array_bytes(repeats.device)
    target, first, second = (torch.ones(size // 4, device=repeats.device) for _ in range(3))
    kernels: dict[Kernel, tuple[int, Callable[[], object]]] = {
        "copy": (2, partial(target.copy_, first)),
        "triad": (3, partial(torch.add, first, second, alpha=3.0, out=target)),
    }
    for kernel, (arrays, run) in kernels.items():
        if not repeats.reason_to_stop():
            found = repeats.time(run, PASS_SECONDS)
            yield MemoryPassFacts(kernel=kernel, array_bytes=size, moved_bytes=arrays * size, seconds=[found])


def array_bytes(device: torch.device) -> int:
    """Long enough that no cache holds an array of it."""
    if device.type == "cuda":
        cache = int(torch.cuda.get_device_properties(device).L2_cache_size)
    else:
        cache = last_cache_bytes() or 0
    return min(LARGEST_ARRAY, max(SMALLEST_ARRAY, CACHE_MULTIPLE * cache)) // 64 * 64


def last_cache_bytes() -> int | None:
    """Size of the largest cache of this machine's first core; None where Linux does not tell."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(path.read_text().strip().removesuffix("K")) * 1024)
    return max(sizes, default=None)


def measure_copies(repeats: Repeats, sizes: tuple[int, ...] = COPY_SIZES) -> Iterator[CopyFacts]:
    """Copies between host and device on all ranks at once, from page-locked memory and from ordinary. Collective."""
    for pinned, size in itertools.product((True, False), sizes):
        host = torch.ones(size, dtype=torch.uint8, pin_memory=pinned and repeats.device.type == "cuda")
        there = torch.ones(size, dtype=torch.uint8, device=repeats.device)
        ways: dict[Direction, Callable[[], object]] = {
            "to_device": partial(there.copy_, host, non_blocking=True),
            "from_device": partial(host.copy_, there, non_blocking=True),
        }
        for direction, run in ways.items():
            if not repeats.reason_to_stop():
                found = repeats.time(run, SWEEP_SECONDS)
                yield CopyFacts(direction=direction, pinned=pinned, payload_bytes=size, seconds=[found])
