"""Checkpoints as the ranks of a training write and read them: at once, or carried to disk while training goes on."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place, barrier
from scalebench.recipe import Recipe
from scalebench.records.training import Save
from scalebench.strategies.base import TrainStep
from scalebench.strategies.construct import stable_seed
from scalebench.strategies.safe_reading import read_plain
from scalebench.training.failures import refused, told
from scalebench.training.keeping import carried, clear, finish, remove_others
from scalebench.training.manifest import (
    AVERAGES,
    STATE,
    UNFINISHED,
    WEIGHTS,
    HeldFile,
    Manifest,
    checkpoint_name,
    read_manifest,
    sha256_of,
    sync,
)
from scalebench.training.weights import write_weights
from scalebench.workloads.base import Workload

BEAT_SECONDS = 1.0
WRITER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")


@dataclass(kw_only=True)
class Checkpoints:
    """The checkpoints of one training, in `folder`, as one rank of it keeps them.

    Attributes:
        staging: where each is written first, to be carried to `folder` while training goes on; None: there at once.
        saves: what each that is on disk has taken; of those that were carried, the rank that leads alone knows.
    """

    folder: Path
    recipe: Recipe
    workload: Workload
    place: Place
    phase: Phase
    staging: Path | None = None
    saves: list[Save] = field(default_factory=list)
    _carried: Future[Save] | None = None

    def save(self, step: TrainStep, manifest: Manifest) -> None:
        """Write the checkpoint that `manifest` describes, then remove those that need not be kept; with `staging`, the
        latter and most of the former by a thread, for which the next save waits. Collective.

        Raises UserError when it, or the one before, could not be written; those before are untouched.
        """
        began = time.monotonic()
        self.settle()
        place = self.staging or self.folder
        with told(self.folder, manifest.step, place):
            written = self._write(step, manifest, place / f"{UNFINISHED}{checkpoint_name(manifest.step)}")
            if self.staging is None:
                self._finish_together(written, manifest)
        stall = time.monotonic() - began
        if self.staging is None:
            self.saves.append(self._saved(manifest.step, stall, stall))
        elif self._leads:
            self._carried = WRITER.submit(self._carry, written, manifest, began, stall)

    def settle(self) -> None:
        """Wait for the checkpoint that is being carried, if there is one. Raises UserError when it failed."""
        if self._carried is None:
            return
        while not self._carried.done():
            self.phase.beat()
            wait([self._carried], timeout=BEAT_SECONDS)
        carried, self._carried = self._carried, None
        self.saves.append(carried.result())

    def look(self) -> None:
        """Tell without waiting, as `settle` does, how a carried checkpoint ended, if it has."""
        if self._carried and self._carried.done():
            self.settle()

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

    def _write(self, step: TrainStep, manifest: Manifest, unfinished: Path) -> Path:
        """All but the manifest, into the new folder `unfinished`. Collective."""
        if self._leads:
            clear(unfinished.parent)
            (unfinished / STATE).mkdir(parents=True)
        barrier(self.place.device)
        self._write_contents(step, unfinished, averaged=manifest.spec.ema_decay is not None)
        barrier(self.place.device)
        return unfinished

    def _write_contents(self, step: TrainStep, folder: Path, averaged: bool) -> None:
        if self.recipe.contents != "weights":
            step.save(folder / STATE)
            torch.save(random_state(self.place), folder / random_file(self.place.rank))
        if self.recipe.contents != "state":
            write_weights(step, self.workload, folder / WEIGHTS, write=self._leads)
            if averaged:
                write_weights(step, self.workload, folder / AVERAGES, write=self._leads, ema=True)

    def _finish_together(self, unfinished: Path, manifest: Manifest) -> None:
        """Give what all ranks have written its name, and remove what need not be kept. Collective."""
        files = self._held_files(unfinished)
        if self._leads:
            finish(unfinished, manifest.model_copy(update={"files": files}))
            remove_others(self.folder, self.recipe)
        barrier(self.place.device)

    def _carry(self, staged: Path, manifest: Manifest, began: float, stall: float) -> Save:
        """The same alone, of what is elsewhere."""
        with told(self.folder, manifest.step):
            clear(self.folder)
            unfinished = self.folder / staged.name
            finish(unfinished, manifest.model_copy(update={"files": carried(staged, unfinished)}))
            shutil.rmtree(staged)
            remove_others(self.folder, self.recipe)
            return self._saved(manifest.step, stall, time.monotonic() - began)

    def _saved(self, step: int, stall: float, durable: float) -> Save:
        written = read_manifest(self.folder / checkpoint_name(step))
        size = sum(held.file_bytes for held in written.files.values())
        return Save(step=step, seconds=stall, durable_seconds=durable, file_bytes=size)

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

    @property
    def _leads(self) -> bool:
        return self.place.rank == 0


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
