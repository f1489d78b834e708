"""What a training generates at its validations: pictures to look at, and their distance from real ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scalebench.data.base import SampleSource
from scalebench.errors import UserError
from scalebench.harness.phase import Phase
from scalebench.harness.placement import Place
from scalebench.recipe import Recipe
from scalebench.spec import RunSpec
from scalebench.strategies.base import TrainStep
from scalebench.training.agreeing import of_all, of_first
from scalebench.training.fid import Distance
from scalebench.training.parts import Part
from scalebench.training.pictures import Pictured, pictured
from scalebench.training.shares import Share


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Samples of held-out conditions and noise, the same at every validation, by all ranks in turn or by rank 0 alone.

    Attributes:
        share: as many as are looked at or compared, whichever are more.
        looked_at: how many are shown. distance: what judges them, if anything does.
    """

    share: Share
    pictured: Pictured
    looked_at: int
    distance: Distance | None = None

    def __call__(self, step: TrainStep) -> tuple[dict[str, float], Tensor | None]:
        """The metrics of what is generated, and the pictures to look at, if any: uint8 (n, channels, height, width) on
        the CPU. Collective: every rank gets the same."""
        shown: dict[int, Tensor] = {}
        with self.share.taken(step):
            for index, batch in self.share:
                made = step.generate(batch)
                if index is None:
                    continue
                if index * self.share.micro_batch < self.looked_at:
                    shown[index] = self.pictured.shown(batch, made)
                if self.distance:
                    self.distance.update(self.pictured.real(batch), self.pictured.made(made))
        return self._metrics(), self._together(shown)

    def _metrics(self) -> dict[str, float]:
        if self.distance is None:
            return {}
        return of_first({self.distance.name: self.distance.value()} if self.share.works else {})

    def _together(self, shown: dict[int, Tensor]) -> Tensor | None:
        """Every rank's pictures in the order of the samples."""
        if not self.looked_at:
            return None
        found = {index: pictures for rank in of_all(shown) for index, pictures in rank.items()}
        return torch.cat([found[index] for index in sorted(found)])[: self.looked_at]


def sampling(spec: RunSpec, recipe: Recipe, held_out: SampleSource, place: Place, phase: Phase) -> Sampling | None:
    """What is generated of the `held_out` samples in a training by `recipe`; None when nothing is.

    Raises UserError for a workload that makes no pictures, and as Distance does.
    """
    if not recipe.samples and not recipe.fid:
        return None
    compared = (recipe.fid.samples or len(held_out)) if recipe.fid else 0
    count = min(len(held_out), max(recipe.samples, compared))
    if recipe.fid and count < 2:
        raise UserError(f"a distance takes two samples at least, and {len(held_out)} is held out. Give --val-data.")
    first = Part(source=held_out, rows=torch.arange(count))
    share = Share(source=first, micro_batch=spec.micro_batch, on=recipe.validate_on, place=place, phase=phase)
    shows, distance = pictured(spec.workload, spec.data), None
    if recipe.fid:
        shape = shows.real(first.__getitems__([0])).shape[1:]
        distance = Distance(recipe.fid, shape, place.device, alone=recipe.validate_on == "rank0")
    return Sampling(share=share, pictured=shows, looked_at=recipe.samples, distance=distance)
