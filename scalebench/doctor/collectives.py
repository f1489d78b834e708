"""Ranks that really start, meet and reduce: a small parity run per backend, by the command that runs are made with.

Two ranks train a few steps on different data and must come out where one process comes out on all of it, which they
do only if every all-reduce was right.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator

from scalebench.doctor.finding import CannotTellError, Finding, note, ok, problem
from scalebench.doctor.interpreter import ending, run
from scalebench.machine import visible_gpus

RUN_SECONDS = 180.0
COLLECTIVE_SECONDS = 60
TINY = ("num_layers=1", "hidden_size=32", "num_heads=2", "context_length=16")


def gloo() -> Iterator[Finding]:
    """Runs without GPUs go over gloo."""
    _need("torch")
    yield from _train("ddp", "cpu", 2, "scalebench doctor network limits variables processes")


def nccl() -> Iterator[Finding]:
    """Runs on GPUs go over NCCL."""
    _need("torch")
    gpus = len(visible_gpus())
    if not gpus:
        raise CannotTellError("no GPU is visible here")
    remedy = "see what NCCL says: NCCL_DEBUG=INFO scalebench doctor collectives; then: export NCCL_P2P_DISABLE=1"
    yield from _train("ddp", "cuda", min(2, gpus), remedy)
    if gpus == 1:
        yield note("one GPU: NCCL was tried with itself only")


def deepspeed() -> Iterator[Finding]:
    """DeepSpeed's engine starts a process group of its own kind and may build extensions."""
    _need("torch")
    _need("deepspeed")
    gpus = len(visible_gpus())
    device, ranks = ("cuda", min(2, gpus)) if gpus else ("cpu", 2)
    yield from _train("deepspeed_stage_2", device, ranks, "scalebench doctor versions builds compilers")


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise CannotTellError(f"{package} is not installed")


def _train(strategy: str, device: str, ranks: int, remedy: str) -> Iterator[Finding]:
    """One parity run of `strategy`, with an end after RUN_SECONDS whatever hangs."""
    named = f"{strategy} on {ranks} {'GPU(s)' if device == 'cuda' else 'processes'}"
    with tempfile.TemporaryDirectory(prefix="scalebench-") as folder:
        code, out, err = run(_command(strategy, device, ranks, folder), RUN_SECONDS, OMP_NUM_THREADS="1")
    if code is None:
        yield problem(f"{named} hung for {RUN_SECONDS:.0f} s", remedy)
        return
    records = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if not records:
        yield problem(f"{named} did not start: {ending(code, err)}", remedy)
    elif records[0]["status"] == "ok":
        yield ok(f"{named}: {records[0]['wall_seconds']:.1f} s, equal to one process")
    else:
        yield problem(f"{named}: {records[0]['status']}, {' '.join(str(records[0]['reason']).split())}", remedy)


def _command(strategy: str, device: str, ranks: int, results: str) -> list[str]:
    options = [part for option in TINY for part in ("--set", f"workload.{option}")]
    return [
        *(sys.executable, "-m", "scalebench", "parity", "--json", "--results", results),
        *("--strategy", strategy, "--device", device, "--gpus", str(ranks), "--precision", "fp32"),
        *("--size", "tiny", "--data", "synthetic", "--micro-batch", "1", "--timeout", str(COLLECTIVE_SECONDS)),
        *options,
    ]


CHECKS = (gloo, nccl, deepspeed)
