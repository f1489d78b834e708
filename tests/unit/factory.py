"""Hand-made records: inputs for the pure functions of analysis and reporting. Nothing in them was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scalebench.recipe import Recipe
from scalebench.records.memory import MemoryFacts
from scalebench.records.record import (
    ChunkFacts,
    Contract,
    ParityFacts,
    RankFacts,
    Record,
    WindowFacts,
    WorkloadFacts,
)
from scalebench.records.training import Evaluation, Save, Test, TrainingFacts
from scalebench.spec import RunSpec, Trial

ENVIRONMENT: dict[str, object] = {
    "host": "host-a",
    "cpu_model": "Example CPU",
    "cores": 8,
    "gpus": [],
    "driver": None,
    "cuda": None,
    "nccl": None,
    "torch": "2.13.0+cpu",
    "deepspeed": "0.19.8",
    "python": "3.11.9",
    "platform": "Linux",
    "commit": "0123456789abcdef",
    "dirty": False,
    "variables": {"OMP_NUM_THREADS": "1"},
}

ITEMS_PER_SAMPLE = 64


def make_spec(**fields: Any) -> RunSpec:
    """A small CPU spec with two warm-up and four timed steps, unless `fields` say otherwise."""
    cpu = fields.get("device", "cpu") == "cpu"
    defaults: dict[str, Any] = {
        "workload": "gpt",
        "size": "tiny",
        "data": "synthetic",
        "strategy": "ddp",
        "device": "cpu",
        "world_size": 1,
        "threads_per_rank": 1 if cpu else None,
        "cores_per_rank": 1 if cpu else None,
        "micro_batch": 4,
        "warmup_steps": 2,
        "steps": 4,
    }
    return RunSpec(**{**defaults, **fields})


def make_rank(rank: int, step_ends: Sequence[int], **fields: Any) -> RankFacts:
    """A rank of host-a pinned to one core, with the given boundaries in nanoseconds from start 0."""
    defaults: dict[str, Any] = {
        "rank": rank,
        "local_rank": rank,
        "host": "host-a",
        "pid": 100 + rank,
        "chunks": [ChunkFacts(first_step=0, start_ns=0, end_ns=step_ends[-1])],
        "step_end_ns": list(step_ends),
        "losses": [1.0] * len(step_ends),
        "threads": 1,
        "interop_threads": 1,
        "affinity": [rank],
    }
    return RankFacts(**{**defaults, **fields})


def make_record(
    spec: RunSpec | None = None,
    step_seconds: float | Sequence[float] = 0.01,
    memory: dict[str, int] | None = None,
    **fields: Any,
) -> Record:
    """An `ok` run of `spec` all of whose ranks end every step together, after `step_seconds` each."""
    spec = spec or make_spec()
    warmup = spec.warmup_steps or 2
    count = warmup + (spec.steps or 4)
    durations = [step_seconds] * count if isinstance(step_seconds, float) else list(step_seconds)
    ends = [round(1e9 * sum(durations[: k + 1])) for k in range(count)]
    gpu = "Example GPU" if spec.device == "cuda" else None
    ranks = [
        make_rank(r, ends, memory=MemoryFacts(**(memory or {})), device_name=gpu, threads=spec.threads_per_rank or 1)
        for r in range(spec.world_size)
    ]
    environment = ENVIRONMENT | ({"gpus": ["Example GPU"] * 8} if gpu else {})
    defaults: dict[str, Any] = {
        "spec": spec,
        "session": "s1",
        "repeat": 0,
        "order": 0,
        "status": "ok",
        "started_at": "2030-01-01T00:00:00+00:00",
        "wall_seconds": 1.0,
        "workload": WorkloadFacts(
            parameters=1000, item="token", items_per_sample=ITEMS_PER_SAMPLE, data_name="synthetic", data_samples=100
        ),
        "contract": make_contract(spec),
        "window": WindowFacts(first_step=warmup, refill_steps=0, stopped="steps"),
        "ranks": ranks,
        "environment": environment,
    }
    if fields.get("status", "ok") != "ok":
        defaults |= {"ranks": [], "window": None, "workload": None, "contract": None}
    return Record(**{**defaults, **fields})


def make_contract(spec: RunSpec) -> Contract:
    """The contract of mixed precision under autocast."""
    compute = {"bf16": "bfloat16", "fp16": "float16"}.get(spec.precision, "float32")
    return Contract(
        parameter="float32",
        compute=compute,
        gradient_reduce="float32" if spec.world_size > 1 else None,
        gradient_accumulation="float32",
        optimizer_state="float32",
        master="float32",
        casting="autocast",
        wrapper="Module",
        optimizer="AdamW(fused)",
        profile=spec.profile,
        grad_sync=spec.grad_sync,
        world_size=spec.world_size,
    )


def make_repeats(spec: RunSpec, step_seconds: Sequence[float], **fields: Any) -> list[Record]:
    """One record per fresh process, of step times `step_seconds`."""
    return [make_record(spec, seconds, **{"repeat": i, "order": i, **fields}) for i, seconds in enumerate(step_seconds)]


def make_trial(spec: RunSpec, step_seconds: float = 0.01, *, search: str = "a", **fields: Any) -> Record:
    """A trial of a search for the micro-batch: the few steps that show whether it fits, unless `spec` times more."""
    trial = Trial(sought="micro_batch", value=spec.micro_batch, search=search)
    return make_record(spec, step_seconds, **{"kind": "trial", "trial": trial} | fields)


def make_training(spec: RunSpec, losses: Sequence[float] = (2.0, 1.0, 1.5), **fields: Any) -> Record:
    """A training validated after every step, each of which took a second, the validation a quarter of another, and
    saved twice; resumed at step 7."""
    recipe = Recipe(steps=13, steps_per_epoch=5, base_learning_rate=0.1, val_every=1, **fields)
    evaluations = [
        Evaluation(
            step=step,
            samples=8 * step,
            elapsed_seconds=1.25 * step,
            seconds=0.25,
            metrics={"loss": loss},
            rank_samples=[10],
            rank_seconds=[0.2],
        )
        for step, loss in enumerate(losses, 11)
    ]
    saves = [
        Save(step=step, seconds=seconds, durable_seconds=5 * seconds, file_bytes=1024 * step)
        for step, seconds in ((12, 0.1), (13, 0.3))
    ]
    training = TrainingFacts(
        first_step=7, load_seconds=0.5, evaluations=evaluations, saves=saves, elapsed_seconds=20.0, train_samples=90,
        val_samples=10, ended="steps",
        test=Test(checkpoint="c/step-00000012", step=12, samples=10, seconds=0.5, metrics={"loss": 1.25}),
    )  # fmt: skip
    made = make_record(spec, [1.0] * 3)
    return made.model_copy(update={"kind": "train", "recipe": recipe, "training": training})


def make_parity(spec: RunSpec, passed: bool = True, **fields: Any) -> Record:
    """A parity check of `spec`."""
    facts = ParityFacts(
        steps=20,
        tolerance_loss=1e-6,
        tolerance_norm=1e-5,
        tolerance_parameters=1e-4,
        loss={"sgd": 1e-7, "adamw": 2e-7},
        norm={"sgd": 1e-6, "adamw": 2e-6},
        parameters={"sgd": 1e-6, "adamw": 3e-6 if passed else 0.5},
        average={"sgd": 1e-6, "adamw": 2e-6} if spec.ema_decay else {},
        clipped_steps={"sgd": 3, "adamw": 4},
        initial_bit_equal=True,
        passed=passed,
    )
    return make_record(spec, kind="parity", parity=facts, ranks=[], **fields)
