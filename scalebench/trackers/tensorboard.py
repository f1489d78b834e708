"""TensorBoard: event files, for `tensorboard --logdir`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

if TYPE_CHECKING:
    from scalebench.trackers.base import Pictures, Run


class TensorBoard:
    """`DIR/tensorboard/ID`. A resumed training writes on beside, and what it does again is hidden (`purge_step`)."""

    def __init__(self, run: Run) -> None:
        self._root = run.folder / "tensorboard"
        folder = self._root / run.id
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(folder, purge_step=run.first_step + 1 if run.first_step else None)
        known = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in run.parameters.items()
        }
        self._writer.add_hparams(known, {}, run_name=".")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def images(self, name: str, images: Pictures, step: int) -> None:
        self._writer.add_images(name, images, step)

    def checkpoint(self, path: Path) -> None:
        pass

    def end(self, status: str) -> str:
        self._writer.close()
        return f"tensorboard --logdir {self._root}"
