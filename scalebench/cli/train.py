"""`scalebench train`: one cell trained to a result, with checkpoints, validation and a record of it all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click

from scalebench import workloads
from scalebench.cli.asking import Asked, read_assignments
from scalebench.cli.flags import request_flags
from scalebench.cli.recipes import resolved
from scalebench.cli.resuming import resumed_checkpoint, resuming_flags, with_global_batch
from scalebench.cli.run import DEFAULT_RESULTS, cells_of, is_worker
from scalebench.cli.summary import cautions, exit_code, problems, where
from scalebench.errors import UserError
from scalebench.machine import Machine, detect
from scalebench.matrix import Request
from scalebench.recipe import Contents, Recipe, Rule, RuleBy, Schedule, Training
from scalebench.records.record import Record
from scalebench.records.store import reserved
from scalebench.spec import PlannedRun, RunSpec
from scalebench.training.manifest import Manifest, checkpoints_in

HELP = """Train a model to a result under a strategy; checkpoints, validation and a record.

For example: scalebench train --strategy fsdp --gpus 2 --epochs 3 --lr 0.001 --schedule cosine
"""
SHARED = (
    "strategy", "gpus", "precision", "tf32", "workload", "size", "data", "num_workers", "micro_batch", "accumulation",
    "memory_limit", "compile", "activation_checkpointing", "clip_norm", "optimizer", "learning_rate", "ema_decay",
    "profile", "grad_sync", "init_from", "device", "seed", "results", "timeout", "debug", "start_method",
)  # fmt: skip
"""Flags that `scalebench run` has too, here with one value each."""
SHORT = {"clip_norm": "--clip", "learning_rate": "--lr"}


def shared_flags() -> list[click.Option]:
    """Those of `run` that a training takes, some with a shorter name beside."""
    flags = [flag for flag in request_flags() if flag.name in SHARED]
    for flag in flags:
        if flag.name in SHORT:
            flag.opts.append(SHORT[flag.name])
    return flags


def choice(literal: Any) -> click.Choice[str]:
    return click.Choice(list(get_args(literal)))


def own_flags() -> list[click.Option]:
    """What only a training takes."""
    least, above, whole = click.IntRange(min=1), click.FloatRange(min=0, min_open=True), click.IntRange(min=0)
    described: list[tuple[str, Any, str]] = [
        ("steps", least, "Optimizer steps in all. Default: one epoch."),
        ("epochs", above, "Passes over the training data instead of steps."),
        ("lr-rule", choice(Rule), "Scale the learning rate with the effective batch over --lr-base. Default: none."),
        ("lr-rule-by", choice(RuleBy), "Scale it with the batch or with the number of GPUs. Default: batch."),
        ("lr-base", least, "The batch, or number of GPUs, that --lr is meant for. Default: one micro-batch, or 1."),
        ("schedule", choice(Schedule), "How the learning rate goes on after its warm-up. Default: constant."),
        ("warmup-steps", whole, "Steps over which the learning rate rises from 0. Default: 0."),
        ("val-data", str, "What to validate on, as --data names it. Default: a part of --data, held out."),
        ("val-share", click.FloatRange(0, 1, min_open=True, max_open=True), "How much is held out. Default: 0.1."),
        ("val-every", least, "Steps between validations. Default: an epoch."),
        ("log-every", least, "Steps between two looks at loss and speed, each a short pause. Default: 10."),
        ("limit-train-batches", str, "Steps in an epoch at most: a number, or a share such as 0.1 or 10%."),
        ("limit-val-batches", str, "Micro-batches in a validation at most, likewise."),
        ("monitor", str, "The metric that tells the best checkpoint. Default: loss."),
        ("target", str, "NAME=VALUE: end as soon as a validation reaches it, e.g. val_accuracy=0.97."),
        ("patience", least, "End after so many validations without a better one. Default: never."),
        (
            "checkpoint-dir",
            click.Path(),
            "Where checkpoints go. Default: checkpoints/WORKLOAD-SIZE-STRATEGY-PRECISION.",
        ),
        ("checkpoint-contents", choice(Contents), "full can be resumed from, weights cannot. Default: full."),
        ("save-every", least, "Steps between checkpoints. Default: one at the end."),
        ("keep-best", whole, "Best checkpoints kept beside the last. Default: 1."),
    ]
    flags = [click.Option([f"--{name}"], type=kind, help=text) for name, kind, text in described]
    resume = "Go on, to the bit, from this checkpoint or the last one in this folder, as it was asked then."
    return [*flags, click.Option(["--resume"], type=click.Path(), help=resume)]


def command(assignments: Sequence[str], json_lines: bool, **given: Any) -> int:
    """Carry out `scalebench train`; returns its exit code."""
    if is_worker(os.environ):
        raise UserError("`scalebench train` starts its ranks itself. Leave torchrun out and give --gpus.")
    flags = {name: value for name, value in given.items() if value is not None}
    if assignments:
        flags["set"] = read_assignments(assignments)
    resumed, batch_given = resumed_checkpoint(flags), not {"accumulation", "micro_batch"}.isdisjoint(flags)
    if resumed:
        flags = resuming_flags(*resumed, flags)
    asked = Asked(flags={name: flags.pop(name) for name in (*SHARED, "set") if name in flags}, table={})
    request = asked.request()
    machine = detect(request.device or "auto")
    spec = cell(asked, request, machine)
    if resumed and not batch_given:
        spec = with_global_batch(spec, resumed[1].spec.global_batch)
    folder = Path(flags.get("checkpoint_dir") or Path("checkpoints") / default_folder(spec))
    return carry_out(request, spec, flags, folder, resumed, machine, json_lines)


train = click.Command(
    "train",
    callback=command,
    help=HELP,
    params=[
        *shared_flags(),
        *own_flags(),
        click.Option(
            ["--set", "assignments"], multiple=True, metavar="strategy.X=V|workload.X=V",
            help="Set an option of the strategy, or of the workload. May be repeated.",
        ),
        click.Option(["--json", "json_lines"], is_flag=True, help="Print the record as a line of JSON instead."),
    ],
)  # fmt: skip


def carry_out(
    request: Request,
    spec: RunSpec,
    flags: dict[str, Any],
    folder: Path,
    resumed: tuple[Path, Manifest] | None,
    machine: Machine,
    json_lines: bool,
) -> int:
    """Resolve the recipe, train, and tell."""
    from scalebench.cli.training_progress import showing
    from scalebench.training import session
    from scalebench.training.board import Board

    session.require_room(folder, resuming=resumed is not None)
    recipe, spec = resolved(spec, flags, session.lengths)
    if resumed:
        session.require_resumable(*resumed, spec, recipe)
    training = Training(recipe=recipe, folder=str(folder), resume=str(resumed[0]) if resumed else None)
    run = PlannedRun(spec=spec, kind="train", training=training)
    tell([*plan_lines(spec, recipe, machine), *cautions([spec], machine)])
    board, results = Board(), Path(request.results or DEFAULT_RESULTS)
    with (
        reserved(folder, lambda: tell([f"another training writes into {folder}; waiting for its end."])),
        showing(board, recipe, first=resumed[1].step if resumed else 0),
    ):
        method = request.start_method or "forkserver"
        record, path = session.train(run, results=results, start_method=method, board=board)
    for line in [record.model_dump_json()] if json_lines else result_lines(record, path):
        click.echo(line)
    tell(problems([(record, path)]))
    if record.status != "ok" and checkpoints_in(folder):
        tell([f"what it had saved is whole; go on with: scalebench train --resume {folder}"])
    return exit_code([record])


def cell(asked: Asked, request: Request, machine: Machine) -> RunSpec:
    """The one cell to train. Raises UserError when several are asked for."""
    values = {"baseline": False, "steps": (1,), "warmup_steps": (1,), "repeats": 1}
    if request.strategy is None:
        raise UserError("--strategy is missing: name the one to train under, e.g. --strategy ddp.")
    specs = cells_of(asked, request.model_copy(update=values), machine)
    if len(specs) > 1:
        raise UserError(f"{len(specs)} cells are asked for, and one is trained at a time. Give one value of each flag.")
    return specs[0]


def default_folder(spec: RunSpec) -> str:
    """`gpt-tiny-fsdp-fp32`."""
    return f"{spec.model_name.replace(' ', '-')}-{spec.strategy}-{spec.precision}".replace("/", "_")


def plan_lines(spec: RunSpec, recipe: Recipe, machine: Machine) -> list[str]:
    """What is going to happen, every resolved number."""
    rate = f"learning rate {spec.optimizer.learning_rate:g}"
    if recipe.rule != "none":
        what = "effective batch" if recipe.rule_by == "batch" else "number of GPUs"
        rate += f" ({recipe.base_learning_rate:g}, {recipe.rule} with the {what} over {recipe.base})"
    lines = [
        f"train {spec.label} on {where(machine)}",
        f"  effective batch: {spec.micro_batch} per micro-batch x {spec.world_size} ranks x {spec.accumulation} "
        f"accumulated = {spec.global_batch} samples",
        f"  {recipe.steps} steps, {recipe.steps_per_epoch} in an epoch; {rate}, {recipe.schedule}, "
        f"{recipe.warmup_steps} steps of warm-up",
        f"  validation every {recipe.val_every} steps, on {recipe.val_batches} micro-batches; best by {recipe.monitor}",
    ]
    usual = workloads.default_micro_batch(spec.workload, spec.size)
    if recipe.rule != "none" and recipe.rule_by == "gpus" and spec.world_size > 1 and spec.global_batch <= usual:
        lines.append(f"the learning rate follows the number of GPUs, but the effective batch is no more than {usual}.")
    return lines


def result_lines(record: Record, path: Path) -> list[str]:
    """What came of it: the last validation, the best checkpoint, the record."""
    facts = record.training
    if facts is None:
        return [f"Record: {path}"]
    because = {"steps": "all steps are made", "target": "the target is reached", "patience": "it got no better"}
    last = facts.evaluations[-1] if facts.evaluations else None
    lines = []
    if last:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in last.metrics.items())
        lines.append(
            f"after {last.step} steps and {facts.elapsed_seconds:.1f} s, since {because[facts.ended]}: {figures}"
        )
    lines += [f"best checkpoint: {facts.best}"] if facts.best else []
    lines += [f"last checkpoint: {facts.last}"] if facts.last else []
    return [*lines, f"Record: {path}"]


def tell(lines: Sequence[str]) -> None:
    """Messages go to standard error."""
    for line in lines:
        click.echo(line, err=True)
