"""What is measured on a GPU: the cells, a pairwise cover of what is promised, and the tasks of each part, by worth."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scalebench.machine import Machine
from scalebench.matrix import Request, resolve
from scalebench.spec import RunSpec
from tests.gpu.pairwise import Cell, cover, feasible_cells

Part = Literal["A", "B", "C"]

STRATEGIES = (
    "single", "ddp", "fsdp", "fsdp_cpu_offload", "fsdp1", "deepspeed_stage_0", "deepspeed_stage_1", "deepspeed_stage_2",
    "deepspeed_stage_3", "deepspeed_stage_2_offload", "deepspeed_stage_3_offload",
)  # fmt: skip
AXES: Mapping[str, Sequence[str]] = {
    "strategy": STRATEGIES,
    "model": ("gpt 124m", "gpt 350m", "gpt 1.3b", "dit xl/2", "jit b/16", "vavae f16d32", "segmentation resnet50"),
    "precision": ("bf16", "fp32", "tf32", "fp16"),
    "compile": ("no", "yes"),
    "checkpointing": ("no", "yes"),
}
CONVOLUTIONAL = ("vavae", "segmentation")
COVERED_AT_1_3B = ("single", "fsdp", "deepspeed_stage_3")
MICRO_BATCH = {"gpt 1.3b": 2}
"""Where the model's own is more than this study needs."""
SHORT = {"warmup_steps": 4, "steps": 8}

EXACT = ("--warmup-steps", "2", "--steps", "5")
OVERHEAD_STRATEGIES = ("ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
LIMITED_BYTES = {"cuda": "12GiB", "cpu": "64MiB"}


def worth_a_run(cell: Cell) -> bool:
    """Whether a cell answers something that another part does not.

    Neither theory nor a strategy refuses any of these axes' combinations (a test holds that). Left out are the offload
    of convolutional models, whose optimizer state is smaller than one image's activations, and of gpt 1.3b all
    strategies but one of each family: part B measures them.
    """
    workload, _, size = cell["model"].partition(" ")
    if "offload" in cell["strategy"]:
        return workload not in CONVOLUTIONAL and size != "1.3b"
    return size != "1.3b" or cell["strategy"] in COVERED_AT_1_3B


@functools.cache
def cells() -> tuple[Cell, ...]:
    """The cover, those without compilation first: they are quicker, and tell more when one of them fails."""
    return tuple(sorted(cover(feasible_cells(AXES, worth_a_run)), key=lambda cell: cell["compile"] == "yes"))


def request_of(cell: Cell, stand_in: bool = False) -> Request:
    """The request that resolves to this cell alone."""
    workload, _, size = cell["model"].partition(" ")
    asked: dict[str, Any] = {
        "strategy": cell["strategy"],
        "workload": workload,
        "size": "tiny" if stand_in else size,
        "data": "synthetic",
        "precision": "fp32" if cell["precision"] == "tf32" else cell["precision"],
        "tf32": cell["precision"] == "tf32",
        "compile": cell["compile"] == "yes",
        "activation_checkpointing": cell["checkpointing"] == "yes",
        "gpus": 1,
        "baseline": False,
        "device": "cpu" if stand_in else "cuda",
    }
    batch = {"micro_batch": MICRO_BATCH[cell["model"]]} if cell["model"] in MICRO_BATCH else {}
    return Request(**asked, **SHORT, **batch)


def spec_of(cell: Cell, machine: Machine, stand_in: bool = False) -> RunSpec:
    """The cell, resolved."""
    (spec,) = resolve(request_of(cell, stand_in), machine)
    return spec


@dataclass(frozen=True, kw_only=True)
class Task:
    """One command of a part.

    Attributes:
        command: its arguments; `{results}` stands for the part's folder of records, `{folder}` for the part's own.
        seconds: it is not begun with less time left than this.
        resumes: run again, it goes on where it was stopped.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    resumes: bool = False


def tasks(part: Part, *, stand_in: bool = False, nanogpt: Path | None = None) -> list[Task]:
    """What `part` consists of, what is worth most first."""
    made = {"A": part_a, "B": part_b, "C": part_c}[part]
    return list(made(stand_in, nanogpt))


def part_a(stand_in: bool, nanogpt: Path | None) -> Iterator[Task]:
    """Does it work, and what can the machine do?"""
    report = ("-q", "-p", "no:cacheprovider", "--junitxml={folder}/tests.xml")
    tests = ("tests/unit/test_nvml.py",) if stand_in else ("-m", "gpu", "tests/gpu", "tests/unit/test_loader.py")
    yield Task(name="gpu-tests", command=python("pytest", *report, *tests), seconds=60)
    probe = ("--max-seconds", "2", "--device", "cpu", "--gpus", "1") if stand_in else ("--max-seconds", "60")
    yield Task(name="probe", command=scalebench("probe", *probe, "--results", "{results}"), seconds=30)
    families = ("versions",) if stand_in else ()
    yield Task(name="doctor", command=scalebench("doctor", "--json", *families), seconds=30)
    if not stand_in:
        everything = ("-q", "-m", "not slow and not gpu", "-n", "12", "--junitxml={folder}/all-tests.xml", "tests")
        yield Task(name="all-tests", command=python("pytest", *everything), seconds=300)


def part_b(stand_in: bool, nanogpt: Path | None) -> Iterator[Task]:
    """How fast is gpt, beside the hardware, a script and plain PyTorch?"""
    if nanogpt:
        yield Task(name="nanogpt", command=python("tests.gpu.peer", str(nanogpt), "{folder}/peer.json"), seconds=60)
    yield Task(name="gpt-small", command=fast(stand_in, "tiny" if stand_in else "124m", "32"), seconds=60)
    if not stand_in:
        yield Task(name="gpt-large", command=fast(stand_in, "1.3b", "16"), seconds=90, resumes=True)
    yield Task(name="overhead", command=overhead(stand_in), seconds=60, resumes=True)
    traced = ("{folder}/traces.json", *(("--stand-in",) if stand_in else ()))
    yield Task(name="traces", command=python("tests.gpu.trace", *traced), seconds=60)
    if not stand_in:
        yield Task(name="gpt-more", command=fast(stand_in, "1.3b", "8,24"), seconds=120, resumes=True)
        yield Task(name="gpt-best", command=fast(stand_in, "1.3b", "auto"), seconds=150, resumes=True)


def fast(stand_in: bool, size: str, micro_batch: str) -> tuple[str, ...]:
    """gpt under plain PyTorch as fast as it goes, one process per micro-batch."""
    asked = ("--strategy", "single", "--workload", "gpt", "--size", size, "--precision", "bf16", "--data", "synthetic")
    compiled = () if stand_in else ("--compile",)
    how_long = EXACT if stand_in else ("--max-seconds", "8")
    return run(stand_in, *asked, *compiled, "--micro-batch", micro_batch, "--repeats", "1", *how_long)


def part_c(stand_in: bool, nanogpt: Path | None) -> Iterator[Task]:
    """Does every cell run, does memory add up, and what happens where it ends?"""
    size, batch = ("tiny", "4096") if stand_in else ("350m", "64")
    limit = ("--memory-limit", LIMITED_BYTES["cpu" if stand_in else "cuda"])
    one = ("--strategy", "single", "--workload", "gpt", "--data", "synthetic", "--size", size, "--precision", "fp32")
    steps = ("--warmup-steps", "2", "--steps", "3", "--repeats", "1")
    too_large = run(stand_in, *one, *steps, "--micro-batch", batch, *limit)
    yield Task(name="oom", command=too_large, seconds=30)
    yield Task(name="after-oom", command=run(stand_in, *one, *steps, "--micro-batch", "1"), seconds=30)
    cover = ("--stand-in",) if stand_in else ()
    yield Task(name="cells", command=python("tests.gpu.cells", "{results}", *cover), seconds=60, resumes=True)
    if not stand_in:
        found = ("--strategy", "single,fsdp", "--gpus", "1", "--data", "synthetic", "--precision", "bf16", *steps)
        for name, words in {"edge": ("--size", "124m", "--micro-batch", "auto"), "largest": ("--size", "max")}.items():
            yield Task(name=name, command=run(stand_in, *found, "--resume", *words), seconds=90, resumes=True)


def overhead_request(stand_in: bool) -> dict[str, Any]:
    """Each wrapper and `single` at one rank, on the same model and micro-batch."""
    return {
        "strategy": ("ddp", "fsdp") if stand_in else OVERHEAD_STRATEGIES,
        "workload": "gpt",
        "size": "tiny" if stand_in else "1.3b",
        "precision": "bf16",
        "gpus": 1,
        "data": "synthetic",
        "micro_batch": 2 if stand_in else 8,
    }


def overhead(stand_in: bool) -> tuple[str, ...]:
    """The same as a command: fresh processes in randomised blocks."""
    asked = overhead_request(stand_in)
    words = [
        word
        for name, value in asked.items()
        for word in (f"--{name.replace('_', '-')}", ",".join(value) if isinstance(value, tuple) else str(value))
    ]
    steps = EXACT if stand_in else ("--warmup-steps", "5", "--steps", "20")
    return run(stand_in, *words, "--repeats", "2" if stand_in else "3", "--no-diagnostics", *steps)


def overhead_specs(machine: Machine, stand_in: bool) -> list[RunSpec]:
    """Its cells, `single` first."""
    return resolve(Request(**overhead_request(stand_in)), machine)


def run(stand_in: bool, *words: str) -> tuple[str, ...]:
    """`scalebench run` into the part's records, going on where it was stopped."""
    device = ("--device", "cpu") if stand_in else ("--device", "cuda")
    resume = () if "--resume" in words else ("--resume",)
    return scalebench("run", *words, *device, *resume, "--results", "{results}")


def scalebench(*words: str) -> tuple[str, ...]:
    return python("scalebench", *words)


def python(module: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *words)
