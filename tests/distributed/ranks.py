"""Start real gloo ranks for a test, fast: a fork server with torch already imported, results returned as values."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")

PRELOADED = ["pytest", "torch.distributed.fsdp", "torch.distributed.tensor", "torch.nn.parallel", "torch._dynamo"]


class RankError(AssertionError):
    """A rank raised, died or hung; the message carries its number and its traceback."""


def run_ranks(fn: Callable[..., Result], world_size: int, *args: Any, timeout: float = 90.0) -> list[Result]:
    """`fn(*args)` on `world_size` fresh processes joined in one gloo group; what each rank returned, by rank.

    `fn` is a module-level function; it, `args` and the results travel by pickle. Each rank uses one thread and the
    loopback interface alone. Raises RankError with the first failing rank's traceback; no process outlives the call.
    """
    folder = Path(tempfile.mkdtemp(prefix="ranks-"))
    payload = pickle.dumps((fn, args))
    ranks = [_start(payload, rank, world_size, folder) for rank in range(world_size)]
    try:
        return _collect(ranks, time.monotonic() + timeout)
    finally:
        for process, _ in ranks:
            process.kill()
            process.join()
        shutil.rmtree(folder, ignore_errors=True)


def _start(payload: bytes, rank: int, world_size: int, folder: Path) -> tuple[ForkServerProcess, Connection]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_rank_main, args=(payload, sender, rank, world_size, folder), daemon=True)
    process.start()
    sender.close()
    return process, receiver


def _collect(ranks: list[tuple[ForkServerProcess, Connection]], deadline: float) -> list[Any]:
    waiting = {receiver: rank for rank, (_, receiver) in enumerate(ranks)}
    results: list[Any] = [None] * len(ranks)
    while waiting:
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankError(f"ranks {sorted(waiting.values())} gave no result in time")
        for receiver in ready:
            assert isinstance(receiver, Connection)
            rank = waiting.pop(receiver)
            results[rank] = _receive(receiver, rank)
    return results


def _receive(receiver: Connection, rank: int) -> Any:
    try:
        ok, value = pickle.loads(receiver.recv_bytes())
    except EOFError:
        raise RankError(f"rank {rank} died without a word") from None
    if not ok:
        raise RankError(f"rank {rank} failed:\n{value}")
    return value


def _rank_main(payload: bytes, sender: Connection, rank: int, world_size: int, folder: Path) -> None:
    for prefix in ("", "LOCAL_"):
        os.environ |= {f"{prefix}RANK": str(rank), f"{prefix}WORLD_SIZE": str(world_size)}
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
        fn, args = pickle.loads(payload)
        message = pickle.dumps((True, fn(*args)))
    except BaseException:
        sender.send_bytes(pickle.dumps((False, traceback.format_exc())))
        os._exit(1)  # the group may be in disorder: tearing it down could hang
    sender.send_bytes(message)
    dist.barrier()  # nobody leaves while another is still inside a collective
    os._exit(0)
