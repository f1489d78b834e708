"""The flags of `scalebench train` that make a recipe, and the recipe that they make."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scalebench import adapters, workloads
from scalebench.errors import UserError
from scalebench.recipe import Fid, Recipe, Schedule, Target
from scalebench.spec import RunSpec

LOWER = ("loss", "perplexity", "error")
"""Metrics whose names end so are the better the lower they are; so are those that begin with `fid`."""
AS_GIVEN = (
    "warmup_steps",
    "val_data",
    "val_share",
    "patience",
    "keep_best",
    "save_every",
    "log_every",
    "save_async",
    "validate_on",
    "samples",
)

Lengths = Callable[[RunSpec, Recipe], tuple[int, int]]
"""Steps in a whole epoch, and micro-batches in a whole validation."""


def resolved(spec: RunSpec, flags: Mapping[str, Any], lengths: Lengths) -> tuple[Recipe, RunSpec]:
    """The recipe, nothing in it left open, and the spec with the learning rate that it makes of what was asked."""
    from scalebench.training.learning_rate import scaled

    recipe = timed(rated(spec, flags), flags, lengths, spec)
    size = spec.global_batch if recipe.rule_by == "batch" else spec.world_size
    peak = scaled(recipe.base_learning_rate, recipe.rule, size / recipe.base)
    optimizer = dataclasses.replace(spec.optimizer, learning_rate=peak)
    return recipe, spec.model_copy(update={"optimizer": optimizer, "steps": recipe.steps})


def rated(spec: RunSpec, flags: Mapping[str, Any]) -> Recipe:
    """All but how long it is. Raises UserError for what does not go together."""
    scaling = next((name for name in ("lr_rule_by", "lr_base") if name in flags), None)
    if scaling and "lr_rule" not in flags:
        raise UserError(f"--{scaling.replace('_', '-')} is for a rate that is scaled. Add --lr-rule linear or sqrt.")
    by, fid = flags.get("lr_rule_by", "batch"), asked_fid(flags)
    monitor = full_name(flags.get("monitor", "loss"), fid)
    share = flags.get("val_share", Recipe.model_fields["val_share"].default)
    tested_on = test_data(spec, flags)
    return Recipe(
        steps=1,
        steps_per_epoch=1,
        val_every=1,
        base_learning_rate=spec.optimizer.learning_rate,
        schedule=schedule(spec, flags),
        rule=flags.get("lr_rule", "none"),
        rule_by=by,
        base=flags.get("lr_base", spec.micro_batch if by == "batch" else 1),
        monitor=monitor,
        higher=higher(monitor),
        contents=flags.get("checkpoint_contents", "full"),
        target=target(flags.get("target"), fid),
        callbacks=callbacks(flags.get("callback", ())),
        fid=fid,
        test_data=tested_on,
        test_share=share if flags.get("test") and not tested_on else None,
        **{name: flags[name] for name in AS_GIVEN if name in flags},
    )


def schedule(spec: RunSpec, flags: Mapping[str, Any]) -> Schedule:
    """As asked, else the model's own, where it brings one along. Raises UserError for what does not go together."""
    asked: Schedule | None = flags.get("schedule")
    if asked not in (None, "model") or not adapters.is_own(spec.workload):
        own = False
    else:
        own = workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed).rates is not None
    if asked == "model" and not own:
        raise UserError(f"{spec.workload} brings no scheduler along. Give --schedule constant, cosine or linear.")
    if own and flags.get("warmup_steps"):
        raise UserError(
            f"--warmup-steps does not go with the scheduler of {spec.workload}. Leave it out, or give --schedule "
            "constant, cosine or linear, which is followed then."
        )
    return asked or ("model" if own else "constant")


def test_data(spec: RunSpec, flags: Mapping[str, Any]) -> str | None:
    """What is tested on, as asked, else what the model brings along for it; None: samples held out, or no test."""
    asked: str | None = flags.get("test_data")
    if asked or not flags.get("test") or not adapters.is_own(spec.workload):
        return asked
    workload = workloads.create(spec.workload, spec.size, spec.workload_options, seed=spec.seed)
    return adapters.OWN_DATA if workload.open_test else None


def timed(recipe: Recipe, flags: Mapping[str, Any], lengths: Lengths, spec: RunSpec) -> Recipe:
    """`recipe` with epochs in steps, and limits in numbers."""
    if "steps" in flags and "epochs" in flags:
        raise UserError("--steps and --epochs both say how long. Leave one of them out.")
    per_epoch, val_batches = lengths(spec, recipe)
    per_epoch = limited(per_epoch, flags.get("limit_train_batches"), "limit_train_batches")
    found = {
        "steps": flags.get("steps") or max(1, round(flags.get("epochs", 1) * per_epoch)),
        "steps_per_epoch": per_epoch,
        "val_every": flags.get("val_every", per_epoch),
        "val_batches": limited(val_batches, flags.get("limit_val_batches"), "limit_val_batches"),
    }
    return recipe.model_copy(update=found)


def limited(whole: int, asked: str | None, flag: str) -> int:
    """`whole`, or as much of it as was asked: a number, or a share."""
    if asked is None:
        return whole
    text = asked.strip()
    try:
        percentage = text.endswith("%")
        value = float(text.removesuffix("%")) / (100 if percentage else 1)
    except ValueError:
        value = 0.0
    share = percentage or "." in text
    if not 0 < value < math.inf or (share and value > 1) or (not share and value != int(value)):
        raise UserError(f"--{flag.replace('_', '-')} {asked}: expected a number, or a share such as 0.1 or 10%.")
    return max(1, round(whole * value)) if share else min(whole, int(value))


def asked_fid(flags: Mapping[str, Any]) -> Fid | None:
    """What judges the samples. Raises UserError for what is no extractor, and for a number of samples without one."""
    if "fid_extractor" in flags:
        from scalebench.training import fid

        return fid.asked_fid(flags["fid_extractor"], flags.get("fid_samples"))
    if "fid_samples" in flags:
        raise UserError("--fid-samples says how many, and not what judges them. Give --fid-extractor.")
    return None


def full_name(metric: str, fid: Fid | None) -> str:
    """`metric` without `val_`; `fid` alone is the distance by the extractor that was given."""
    name = metric.strip().removeprefix("val_")
    return fid.metric if fid and name == "fid" else name


def higher(metric: str) -> bool:
    """Whether a metric is the better the higher it is, by its name."""
    return not metric.endswith(LOWER) and not metric.startswith("fid")


def target(asked: str | None, fid: Fid | None = None) -> Target | None:
    """`NAME=VALUE`, the name with `val_` or without."""
    if asked is None:
        return None
    name, _, value = asked.partition("=")
    try:
        metric = full_name(name, fid)
        return Target(metric=metric, value=float(value), higher=higher(metric))
    except ValueError:
        raise UserError(f"--target {asked}: expected NAME=VALUE, e.g. val_accuracy=0.97.") from None


def callbacks(given: Sequence[str]) -> tuple[str, ...]:
    """The callbacks, each found and made once: a mistake in one is told before anything starts."""
    if not given:
        return ()
    from scalebench.training.callbacks import resolved_callback

    return tuple(map(resolved_callback, given))
