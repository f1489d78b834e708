"""Checkpoints: written beside, whole before they get their name, and never in place of the last good one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from scalebench.errors import UserError
from scalebench.harness.placement import Place, barrier
from scalebench.recipe import Recipe
from scalebench.records.training import Save
from scalebench.strategies.base import TrainStep
from scalebench.strategies.construct import stable_seed
from scalebench.strategies.safe_reading import CodeFoundError, read_plain
from scalebench.training.manifest import (
    AVERAGES,
    MANIFEST,
    STATE,
    UNFINISHED,
    WEIGHTS,
    HeldFile,
    Manifest,
    checkpoint_name,
    checkpoints_in,
    read_manifest,
    sha256_of,
    sync,
)
from scalebench.training.stopping import score
from scalebench.training.weights import write_weights
from scalebench.workloads.base import Workload

SHORT_OF_SPACE_BYTES = 2**26


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one training, in `folder`, as one rank of it keeps them."""

    folder: Path
    recipe: Recipe
    workload: Workload
    place: Place

    def save(self, step: TrainStep, manifest: Manifest) -> Save:
        """Write the checkpoint that `manifest` describes, then remove those that need not be kept. Collective.

        Raises UserError when it could not be written; those before it are untouched.
        """
        began = time.monotonic()
        with told(self.folder, manifest.step):
            written = self._write(step, manifest)
            self._remove_others()
        size = sum(held.file_bytes for held in written.files.values())
        return Save(step=manifest.step, seconds=time.monotonic() - began, file_bytes=size)

    def load(self, checkpoint: Path, step: TrainStep, resizing: bool) -> None:
        """Take up `checkpoint`, and draw random numbers on from there. Collective.

        With `resizing`, where ranks are not as many as then, each draws others, by the seed and the step. Raises
        UserError for one that holds code.
        """
        manifest = read_manifest(checkpoint)
        with refused(checkpoint):
            step.load(checkpoint / STATE)
            if resizing:
                torch.manual_seed(stable_seed(f"{manifest.spec.seed}:{manifest.step}:{self.place.rank}"))
            else:
                set_random_state(read_plain(checkpoint / random_file(self.place.rank)), self.place)

    def _write(self, step: TrainStep, manifest: Manifest) -> Manifest:
        unfinished = self.folder / f"{UNFINISHED}{checkpoint_name(manifest.step)}"
        if self._leads:
            for left in self.folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(left)
            (unfinished / STATE).mkdir(parents=True)
        barrier(self.place.device)
        self._write_contents(step, unfinished, averaged=manifest.spec.ema_decay is not None)
        barrier(self.place.device)
        whole = manifest.model_copy(update={"files": self._held_files(unfinished)})
        if self._leads:
            finish(unfinished, whole)
        barrier(self.place.device)
        return whole

    def _write_contents(self, step: TrainStep, folder: Path, averaged: bool) -> None:
        if self.recipe.contents == "full":
            step.save(folder / STATE)
            torch.save(random_state(self.place), folder / random_file(self.place.rank))
        write_weights(step, self.workload, folder / WEIGHTS, write=self._leads)
        if averaged:
            write_weights(step, self.workload, folder / AVERAGES, write=self._leads, ema=True)

    def _held_files(self, folder: Path) -> dict[str, HeldFile]:
        """Every file in `folder`, on disk by now, and what it holds; each rank looks at some."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        mine = {}
        for file in files[self.place.rank :: self.place.world_size]:
            sync(file)
            mine[str(file.relative_to(folder))] = HeldFile(file_bytes=file.stat().st_size, sha256=sha256_of(file))
        shares = [mine]
        if dist.is_initialized():
            shares = [{}] * self.place.world_size
            dist.all_gather_object(shares, mine)
        return dict(sorted((name, held) for share in shares for name, held in share.items()))

    def _remove_others(self) -> None:
        if self._leads:
            found = checkpoints_in(self.folder)
            kept = {*best_of(self.recipe, found)[: self.recipe.keep_best], found[-1]}
            for path in found:
                if path not in kept:
                    (path / MANIFEST).unlink()  # from here on it is no checkpoint, however far this gets
                    shutil.rmtree(path)

    @property
    def _leads(self) -> bool:
        return self.place.rank == 0


def finish(unfinished: Path, manifest: Manifest) -> None:
    """Give a written folder its manifest and its name, each on disk before the next."""
    file = unfinished / MANIFEST
    file.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for path in (file, *(path for path in unfinished.rglob("*") if path.is_dir()), unfinished):
        sync(path)
    finished = unfinished.with_name(checkpoint_name(manifest.step))
    if finished.exists():  # without a manifest: what was left of one that was being removed
        shutil.rmtree(finished)
    unfinished.rename(finished)
    sync(finished.parent)


def best_of(recipe: Recipe, found: list[Path]) -> list[Path]:
    """Those of the checkpoints that were validated, the best first, of equals the earliest."""
    scores = {path: manifest.metrics for path in found if (manifest := read_manifest(path)).metrics}
    return sorted(scores, key=lambda path: -score(recipe, scores[path]))


@contextmanager
def told(folder: Path, step: int) -> Iterator[None]:
    """Whatever fails while a checkpoint is written becomes a sentence: what, where, what is left and what to do."""
    try:
        yield
    except Exception as error:  # torch's writers raise what they like of a full disk
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else _first_line(error)
        if space(folder) < SHORT_OF_SPACE_BYTES:
            reason = f"{space(folder) // 2**20} MiB are left on its disk"
        found = checkpoints_in(folder)
        last = (
            f"The last whole one is {found[-1].name}: make room and resume from it." if found else "There is no other."
        )
        raise UserError(
            f"the checkpoint of step {step} could not be written into {folder}: {reason}. {last}"
        ) from error


@contextmanager
def refused(checkpoint: Path) -> Iterator[None]:
    """Code that is found in a checkpoint becomes a sentence."""
    try:
        yield
    except CodeFoundError as error:
        raise UserError(
            f"the checkpoint {checkpoint} holds code ({error}), which no training saves and which is never run. "
            "Take one that you or your colleagues have written."
        ) from error


def space(folder: Path) -> int:
    """Bytes that are left where `folder` is, or is to be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def random_file(rank: int) -> str:
    """Where a rank's random state is."""
    return f"random-{rank}.pt"


def random_state(place: Place) -> dict[str, torch.Tensor]:
    """Of the generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(place.device)} if place.device.type == "cuda" else {})


def set_random_state(state: dict[str, torch.Tensor], place: Place) -> None:
    """Draw on from `state`."""
    torch.set_rng_state(state["cpu"])
    if place.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], place.device)
