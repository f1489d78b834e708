"""Parity: does a strategy train the very model that plain PyTorch trains? One launch per check; nothing is timed.

Rank 0 first trains `single` on all micro-batches of every step, then all ranks train the strategy, each on its share
of the very same micro-batches, from the same seed. What is compared and why the tolerances are theirs: docs/parity.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from scalebench import data, strategies, workloads
from scalebench.harness.job import Report
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place
from scalebench.records.record import ParityFacts
from scalebench.spec import RunSpec, Scalar
from scalebench.strategies.base import Batch, Strategy, TrainStep
from scalebench.strategies.config import OptimizerConfig, Precision, TrainConfig
from scalebench.workloads.base import SampleSource, Workload
from scalebench.workloads.checkpoint import started

STEPS = 10
ACCUMULATION = 2
"""Micro-batches per rank and step where the spec accumulates none: a wrong divisor needs something to divide."""

ATTEMPTS = 16
"""How often a step that loss scaling skips is taken again; each time the scale halves, and it starts at 2 to the 16."""

OPTIMIZERS = {
    "sgd": OptimizerConfig(name="sgd", learning_rate=0.01, momentum=0.9),
    # With the usual eps a gradient that is zero but for rounding (an attention's key bias) moves as much as any other.
    "adamw": OptimizerConfig(name="adamw", learning_rate=1e-3, eps=1e-4),
}

COMPARABLE = (
    ("norm", "sync_batch", "batch"),
    ("activation", "relu", "silu"),
    ("pixel_error", "absolute", "squared"),
)
"""Options whose first value no backend can repeat to within rounding, and what stands in for it."""

QUANTILES = (0.5, 0.75, 0.25)
"""Quantiles of the norms of a run without clipping, tried as its threshold until it binds on some of them."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The largest relative differences that pass: of loss and norm at any step, of the parameters at the end."""

    loss: float
    norm: float
    parameters: float


TOLERANCES: dict[Precision, Tolerance] = {
    # Sums in another order round differently: 6e-8 of a value each time, and some 1e-6 after ten steps.
    "fp32": Tolerance(loss=1e-6, norm=1e-5, parameters=1e-5),
    # Backends cast at different places, and each cast rounds: to 2e-3 of a value in bf16, to 2e-4 in fp16.
    "bf16": Tolerance(loss=5e-3, norm=5e-2, parameters=5e-2),
    "fp16": Tolerance(loss=1e-3, norm=1e-2, parameters=1e-2),
    # Without fp32 masters small updates are rounded away, by chance more of them in one order of sums than in another.
    "bf16-true": Tolerance(loss=5e-3, norm=5e-2, parameters=1e-1),
    "fp16-true": Tolerance(loss=1e-3, norm=1e-2, parameters=1e-1),
}


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One training: the global mean loss and the gradient norm before clipping of each step, fp64 on the CPU."""

    losses: Tensor
    norms: Tensor


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What `single` did: its trace, and its parameters before and after, whole, fp32, on the CPU; `average` are their
    moving averages in the end, empty where none are kept."""

    clip_norm: float
    trace: Trace
    initial: Mapping[str, Tensor]
    final: Mapping[str, Tensor]
    average: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The strategy against `single` under one optimizer; the fields are those of ParityFacts."""

    loss: float | None
    norm: float | None
    parameters: float | None
    average: float | None
    keeps_average: bool
    clipped_steps: int
    initial_bit_equal: bool


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What both trainings have in common."""

    spec: RunSpec
    place: Place
    phase: Phase
    workload: Workload
    source: SampleSource

    @property
    def accumulation(self) -> int:
        return self.spec.accumulation if self.spec.accumulation > 1 else ACCUMULATION

    def config(self, optimizer: str, clip_norm: float | None) -> TrainConfig:
        """The strategy's training."""
        return dataclasses.replace(
            self.spec.train_config(),
            accumulation=self.accumulation,
            optimizer=OPTIMIZERS[optimizer],
            clip_norm=clip_norm,
            record_grad_norm=True,
        )

    def alone(self, config: TrainConfig) -> TrainConfig:
        """The same training by one rank. Compiled if the strategy's is: compilers round in an order of their own."""
        return dataclasses.replace(
            config,
            accumulation=self.accumulation * self.place.world_size,
            grad_sync="last",
            activation_checkpointing=False,
        )

    def batches(self, rank: int, world_size: int) -> Iterator[list[Batch]]:
        """The micro-batches of `rank` when `world_size` ranks share those of each step."""
        loader = data.loader(
            self.source,
            micro_batch=self.spec.micro_batch,
            accumulation=self.accumulation * self.place.world_size // world_size,
            rank=rank,
            world_size=world_size,
            seed=self.spec.seed,
            device=self.place.device,
        )
        return self.phase.beating(loader)


def check(spec: RunSpec, strategy: Strategy, place: Place, phase: Phase) -> Report:
    """Train both ways under each optimizer and compare. Rank 0 reports the facts, and what failed as contradictions."""
    setting = set_up(spec, place, phase)
    # All of these come first: DeepSpeed replaces functions of torch in its process.
    references = {name: reference(setting, name) for name in OPTIMIZERS} if place.rank == 0 else {}
    thresholds = from_rank_0({name: found.clip_norm for name, found in references.items()})
    found = {name: compare(setting, strategy, name, thresholds[name], references.get(name)) for name in OPTIMIZERS}
    differences = {name: difference for name, difference in found.items() if difference is not None}
    if place.rank:
        return Report()
    allowed = tolerance(spec)
    wrong = failures(differences, allowed)
    return Report(parity=facts(differences, allowed, passed=not wrong), contradictions=wrong)


def tolerance(spec: RunSpec) -> Tolerance:
    """What passes in the precision of `spec`. TF32 rounds operands to fp16's ten bits."""
    return TOLERANCES["fp16" if spec.tf32 and spec.device == "cuda" else spec.precision]


def set_up(spec: RunSpec, place: Place, phase: Phase) -> Setting:
    """The workload in its comparable form, and its samples."""
    options = comparable(spec.workload_options)
    made = workloads.create(spec.workload, spec.size, options, seed=spec.seed)
    workload = started(made, spec.init_from).without_dropout()
    return Setting(
        spec=spec, place=place, phase=phase, workload=workload, source=workload.samples(spec.data, spec.seed)
    )


def comparable(options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """`options` without what no process alone can repeat on micro-batches to within rounding.

    Dropout, whose random numbers depend on the rank, is off. Norms over all ranks become norms over each micro-batch.
    Rectifiers and absolute errors become smooth: what rounding pushes over their kink changes a gradient by as much as
    it likes.
    """
    changed = dict(options)
    if "dropout" in changed:
        changed["dropout"] = 0.0
    for name, told_apart, comparable_value in COMPARABLE:
        if changed.get(name) == told_apart:
            changed[name] = comparable_value
    return changed


def reference(setting: Setting, optimizer: str) -> Reference:
    """Train `single`, clipped at the median norm of a run without clipping, so that it binds on some of the steps."""
    free = train_alone(setting, optimizer, None).trace
    for quantile in QUANTILES:
        found = train_alone(setting, optimizer, float(free.norms.quantile(quantile)))
        if 0 < count_clipped(found.trace, found.clip_norm) < STEPS:
            break
    return found


def train_alone(setting: Setting, optimizer: str, clip_norm: float | None) -> Reference:
    """Train `single` on everybody's micro-batches."""
    config = setting.alone(setting.config(optimizer, clip_norm))
    step = strategies.create("single").prepare(setting.workload, config, setting.place.device)
    initial = dict(step.full_parameters())
    trace = train(step, setting.batches(0, 1))
    return Reference(
        clip_norm=clip_norm or math.inf,
        trace=trace,
        initial=initial,
        final=dict(step.full_parameters()),
        average=dict(step.full_parameters(ema=True)) if config.ema_decay else {},
    )


def train(step: TrainStep, batches: Iterator[list[Batch]]) -> Trace:
    """The trace of STEPS steps that loss scaling did not skip; losses are this rank's."""
    steps = [settled_step(step, micro_batches) for micro_batches in itertools.islice(batches, STEPS)]
    losses, norms = (torch.stack(values).double().cpu() for values in zip(*steps, strict=True))
    return Trace(losses=losses, norms=norms)


def settled_step(step: TrainStep, micro_batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """Loss and norm of one step, taken again while loss scaling skips it: gradients overflow on some ranks earlier."""
    for _ in range(ATTEMPTS):
        skipped = step.skipped_steps()
        loss, norm = step(micro_batches), step.grad_norm()
        if step.skipped_steps() == skipped:
            break
    assert norm is not None, "a strategy computes the gradient norm when it is asked to clip"
    return loss, norm


def compare(
    setting: Setting, strategy: Strategy, optimizer: str, clip_norm: float, reference: Reference | None
) -> Difference | None:
    """Train the strategy and compare it with `reference`, which rank 0 has. Collective."""
    place = setting.place
    step = strategy.prepare(setting.workload, setting.config(optimizer, clip_norm), place.device)
    initial_bit_equal = all_equal(step.full_parameters(), reference.initial if reference else None)
    trace = train(step, setting.batches(place.rank, place.world_size))
    losses = mean_over_ranks(trace.losses, place)
    parameters = relative_to_movement(step.full_parameters(), reference, reference.final if reference else {})
    averages = step.full_parameters(ema=True) if setting.spec.ema_decay else ()
    average = relative_to_movement(averages, reference, reference.average if reference else {})
    step.close()
    if reference is None:
        return None
    return Difference(
        loss=largest_relative(losses, reference.trace.losses),
        norm=largest_relative(trace.norms, reference.trace.norms),
        parameters=parameters,
        average=average,
        keeps_average=bool(reference.average),
        clipped_steps=count_clipped(trace, clip_norm),
        initial_bit_equal=initial_bit_equal,
    )


def all_equal(parameters: Iterable[tuple[str, Tensor]], expected: Mapping[str, Tensor] | None) -> bool:
    """Whether all parameters equal `expected` bit for bit. Goes through all of them in any case: it is collective."""
    equal = [torch.equal(value, expected[name]) for name, value in parameters if expected is not None]
    return all(equal) and len(equal) == len(expected or ())


def relative_to_movement(
    parameters: Iterable[tuple[str, Tensor]], reference: Reference | None, expected: Mapping[str, Tensor]
) -> float | None:
    """2-norm of the difference of `parameters` from `expected` over that of the latter's from the initial ones."""
    apart, moved = 0.0, 0.0
    for name, value in parameters:
        if reference is not None:
            apart += squares(value, expected[name])
            moved += squares(expected[name], reference.initial[name])
    return finite(math.sqrt(apart / moved)) if moved else None


def squares(some: Tensor, other: Tensor) -> float:
    """The squared 2-norm of a difference, summed in fp64."""
    return float((some.double() - other.double()).square().sum())


def largest_relative(values: Tensor, expected: Tensor) -> float | None:
    """The largest |value - expected| / |expected|; None when one of them is not finite."""
    return finite(float(((values - expected).abs() / expected.abs()).max()))


def finite(value: float) -> float | None:
    """None for what is no number."""
    return value if math.isfinite(value) else None


def count_clipped(trace: Trace, clip_norm: float) -> int:
    """On how many steps clipping was binding."""
    return int((trace.norms > clip_norm).sum())


def mean_over_ranks(values: Tensor, place: Place) -> Tensor:
    """The mean of every rank's `values` (fp64, on the CPU), everywhere."""
    if dist.is_initialized():
        shared = values.to(place.device)
        dist.all_reduce(shared)
        return shared.cpu() / place.world_size
    return values


def from_rank_0(value: dict[str, float]) -> dict[str, float]:
    """Rank 0's `value`, on every rank."""
    shared = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(shared, src=0)
    return shared[0]


def facts(differences: Mapping[str, Difference], tolerance: Tolerance, *, passed: bool) -> ParityFacts:
    """The differences as the record keeps them."""
    return ParityFacts(
        steps=STEPS,
        tolerance_loss=tolerance.loss,
        tolerance_norm=tolerance.norm,
        tolerance_parameters=tolerance.parameters,
        loss={name: difference.loss for name, difference in differences.items()},
        norm={name: difference.norm for name, difference in differences.items()},
        parameters={name: difference.parameters for name, difference in differences.items()},
        average={name: difference.average for name, difference in differences.items() if difference.keeps_average},
        clipped_steps={name: difference.clipped_steps for name, difference in differences.items()},
        initial_bit_equal=all(difference.initial_bit_equal for difference in differences.values()),
        passed=passed,
    )


def failures(differences: Mapping[str, Difference], tolerance: Tolerance) -> list[str]:
    """Every way in which the strategy did not train as `single` did, one clause each."""
    wrong = []
    for name, found in differences.items():
        if not found.initial_bit_equal:
            wrong.append(f"asked single's initial parameters under {name}, observed others")
        for what, value, limit in (
            ("losses", found.loss, tolerance.loss),
            ("gradient norms", found.norm, tolerance.norm),
            ("movement of the parameters", found.parameters, tolerance.parameters),
            *([("moving averages", found.average, tolerance.parameters)] if found.keeps_average else []),
        ):
            if value is None or value > limit:
                by = "none to compare" if value is None else f"a relative difference of {value:.1e}"
                wrong.append(f"asked single's {what} to within {limit:.0e} under {name}, observed {by}")
        if not 0 < found.clipped_steps < STEPS:
            wrong.append(f"asked clipping on some steps under {name}, observed it on {found.clipped_steps} of {STEPS}")
    return wrong
