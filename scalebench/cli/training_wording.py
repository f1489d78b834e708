"""A training in the words that people read: what is going to happen, what came of it, how to go on."""

from __future__ import annotations

import math
from pathlib import Path

from scalebench import workloads
from scalebench.cli.summary import where
from scalebench.machine import Machine
from scalebench.recipe import Recipe, Training
from scalebench.records.record import Record
from scalebench.spec import RunSpec
from scalebench.training.manifest import checkpoints_in


def default_folder(spec: RunSpec) -> str:
    """`gpt-tiny-fsdp-fp32`."""
    return f"{spec.model_name.replace(' ', '-')}-{spec.strategy}-{spec.precision}".replace("/", "_")


def plan_lines(spec: RunSpec, training: Training, machine: Machine) -> list[str]:
    """What is going to happen, every resolved number."""
    recipe = training.recipe
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
        f"  validation every {recipe.val_every} steps, on {recipe.val_batches} micro-batches by "
        f"{'all ranks' if recipe.validate_on == 'all' else 'rank 0 alone'}; best by {recipe.monitor}",
        f"  checkpoints in {training.folder}: {', '.join(kept(recipe))}",
    ]
    if recipe.save_async:
        lines.append(
            "  checkpoints are carried to disk while training goes on; the next one waits for that, and the end"
        )
    usual = workloads.default_micro_batch(spec.workload, spec.size)
    if recipe.rule != "none" and recipe.rule_by == "gpus" and spec.world_size > 1 and spec.global_batch <= usual:
        lines.append(f"the learning rate follows the number of GPUs, but the effective batch is no more than {usual}.")
    return lines


def kept(recipe: Recipe) -> list[str]:
    """Which checkpoints are written."""
    best = f"the {recipe.keep_best} best" if recipe.keep_best > 1 else "the best"
    every = f"one every {recipe.save_every} steps" if recipe.save_every else ""
    return [*filter(None, [best if recipe.keep_best else "", every]), "the last"]


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
    if facts.test:
        figures = ", ".join(f"test_{name} {value:.4g}" for name, value in facts.test.metrics.items())
        lines.append(f"{Path(facts.test.checkpoint).name} on {facts.test.samples} samples held out for it: {figures}")
    lines += [f"samples: {path.parent / facts.sheets[-1].file}"] if facts.sheets else []
    lines += [f"best checkpoint: {facts.best}"] if facts.best else []
    lines += [f"last checkpoint: {facts.last}"] if facts.last else []
    return [*lines, f"Record: {path}"]


def way_on(record: Record, folder: Path) -> list[str]:
    """How to go on after a training that has not ended well."""
    losses = record.ranks[0].losses if record.ranks else []
    if record.status == "ok" and losses and math.isnan(losses[-1]) and not record.spec.detect_anomaly:
        return ["its loss has become nan; --detect-anomaly ends a training at the first one, and says where it began."]
    if record.status == "ok" or not checkpoints_in(folder):
        return []
    return [f"what it had saved is whole; go on with: scalebench train --resume {folder}"]
