"""Folders of checkpoints: whole before they get their name, kept while they are the last or among the best."""

from __future__ import annotations

import shutil
from pathlib import Path

from scalebench.recipe import Recipe
from scalebench.training.manifest import (
    MANIFEST,
    UNFINISHED,
    HeldFile,
    Manifest,
    checkpoint_name,
    checkpoints_in,
    copied,
    read_manifest,
    sync,
)
from scalebench.training.stopping import score


def clear(folder: Path) -> None:
    """Remove what was left of checkpoints that were never finished, or half removed."""
    for left in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left)


def carried(source: Path, target: Path) -> dict[str, HeldFile]:
    """Every file in `source`, now also in the new folder `target` and on disk."""
    held = {}
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        name = file.relative_to(source)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        held[str(name)] = copied(file, target / name)
    return held


def finish(unfinished: Path, manifest: Manifest) -> None:
    """Give a written folder its manifest and its name, each on disk before the next."""
    file = unfinished / MANIFEST
    file.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for path in (file, *(path for path in unfinished.rglob("*") if path.is_dir()), unfinished):
        sync(path)
    finished = unfinished.with_name(checkpoint_name(manifest.step))
    if finished.exists():  # without a manifest, and so no checkpoint
        remove(finished)
    unfinished.rename(finished)
    sync(finished.parent)


def remove_others(folder: Path, recipe: Recipe) -> None:
    """Remove the checkpoints that are neither the last nor among the best that are kept."""
    found = checkpoints_in(folder)
    kept = {*best_of(recipe, found)[: recipe.keep_best], found[-1]}
    for path in found:
        if path not in kept:
            remove(path)


def remove(checkpoint: Path) -> None:
    """Let it be no checkpoint from one moment to the next, however far the rest gets."""
    gone = checkpoint.with_name(f"{UNFINISHED}{checkpoint.name}-removed")
    checkpoint.rename(gone)
    shutil.rmtree(gone)


def best_of(recipe: Recipe, found: list[Path]) -> list[Path]:
    """Those of the checkpoints that were validated, the best first, of equals the earliest."""
    scores = {path: manifest.metrics for path in found if (manifest := read_manifest(path)).metrics}
    return sorted(scores, key=lambda path: -score(recipe, scores[path]))
