"""Weights & Biases: offline unless `WANDB_MODE` says otherwise."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wandb

if TYPE_CHECKING:
    from scalebench.trackers.base import Pictures, Run


class Wandb:
    """A run under `DIR/wandb`. Offline, where nothing can be added to what was uploaded, each part of a resumed
    training is a run; online it goes on.

    Its own system metrics are off: it would watch the launching process, and so would have to be all ranks.
    """

    def __init__(self, run: Run) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        self._offline = mode != "online"
        if not self._offline and not wandb.login(prompt=False):
            raise RuntimeError("W&B has no API key: type `wandb login`, or leave WANDB_MODE=online out")
        options, again = run.options, bool(run.first_step) and self._offline
        (run.folder / "wandb").mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=options.project,
            entity=options.entity,
            name=run.name,
            group=options.group,
            tags=list(options.tags),
            id=f"{run.id}-from-{run.first_step}" if again else run.id,
            resume=None if self._offline else "allow",
            mode=mode,
            dir=run.folder,
            config=dict(run.parameters),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def images(self, name: str, images: Pictures, step: int) -> None:
        self._run.log({name: [wandb.Image(image) for image in images.transpose(0, 2, 3, 1)]}, step=step)

    def checkpoint(self, path: Path) -> None:
        artifact = wandb.Artifact(f"{self._run.id}-{path.name}", type="model")
        artifact.add_dir(str(path))
        self._run.log_artifact(artifact)

    def end(self, status: str) -> str:
        folder, disabled = Path(self._run.settings.sync_dir), self._run.disabled
        self._run.finish(exit_code=0 if status == "ok" else 1)
        wandb.teardown()  # what `finish` has handed over is on disk only then
        if disabled:
            return "nothing is kept: WANDB_MODE is disabled"
        return f"wandb sync {shlex.quote(str(folder))}" if self._offline else str(self._run.url)
