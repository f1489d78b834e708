"""Recipe: what a training is beyond its cell: how long, how fast it learns, when it looks at itself and what it keeps.

Torch-free, and completely resolved: epochs have become steps, and fractions numbers of batches.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Schedule = Literal["constant", "cosine", "linear", "model"]
Rule = Literal["none", "linear", "sqrt"]
RuleBy = Literal["batch", "gpus"]
Contents = Literal["full", "state", "weights"]
ValidateOn = Literal["all", "rank0"]


class Target(BaseModel):
    """A metric and the value it is to reach; `higher` is whether larger values are better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    value: float
    higher: bool

    def reached_by(self, value: float) -> bool:
        """Whether `value` is as good as this, or better; nan never is."""
        return value >= self.value if self.higher else value <= self.value


class Fid(BaseModel):
    """The Frechet inception distance of what is generated, in the features of `extractor`.

    Attributes:
        extractor: `module:factory`, `file.py:factory`, or the file of Inception's weights.
        metric: the distance's name: the extractor's, and a hash of its weights.
        samples: generated, and held-out ones compared with them; None: as many as are held out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    extractor: str
    metric: str
    samples: int | None = Field(default=None, ge=2)


class Recipe(BaseModel):
    """How a cell is trained. Steps are optimizer steps; the spec's learning rate is the one that the schedule peaks at.

    Attributes:
        steps: of the whole training, however often it is resumed. steps_per_epoch: after which samples come again.
        base_learning_rate, rule, rule_by, base: the spec's learning rate is `base_learning_rate` scaled by `rule` with
            the effective batch, or the number of GPUs, over `base`.
        schedule, warmup_steps: linear from 0 over the warm-up, then constant, or to 0 at the end; `model`: as the
            scheduler that the model brings along has it.
        val_data: what it is judged on, as a spec's `data` is named; None: the share `val_share` of its own data, held
            out of training. val_batches: micro-batches of it, of all ranks together; None: all.
        validate_on: all ranks in turn, or rank 0 alone while the others wait.
        test_data: what the best checkpoint is tested on at the end, as `data` is named (`own`: what the model brings
            along for it); or `test_share`: the share of its own data that is held out for that. None of both: it is not
            tested.
        samples: generated at each validation, to be looked at. fid: what they are judged by, if anything.
        val_every, save_every, log_every: steps between two; None for `save_every`: none but the best and the last.
        monitor, higher: the metric that tells the best checkpoint, and whether larger is better.
        keep_best: checkpoints kept beside the last one; a validation that is among so many best is saved.
        contents: `state` is what resuming needs, `weights` the whole model in one file, `full` both.
        save_async: whether checkpoints are carried to disk while training goes on.
        patience: validations without a better one after which it stops early; None: never.
        target: ends the training as soon as a validation reaches it.
        callbacks: the user's own code that is called on the way, as `module:Class` or `file.py:Class`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=1)
    steps_per_epoch: int = Field(ge=1)
    base_learning_rate: float = Field(gt=0)
    rule: Rule = "none"
    rule_by: RuleBy = "batch"
    base: int = Field(default=1, ge=1)
    schedule: Schedule = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    val_data: str | None = None
    val_share: float = Field(default=0.1, gt=0, lt=1)
    val_batches: int | None = Field(default=None, ge=1)
    validate_on: ValidateOn = "all"
    test_data: str | None = None
    test_share: float | None = Field(default=None, gt=0, lt=1)
    samples: int = Field(default=0, ge=0)
    fid: Fid | None = None
    val_every: int = Field(ge=1)
    save_every: int | None = Field(default=None, ge=1)
    log_every: int = Field(default=10, ge=1)
    monitor: str = "loss"
    higher: bool = False
    keep_best: int = Field(default=1, ge=0)
    contents: Contents = "full"
    save_async: bool = False
    patience: int | None = Field(default=None, ge=1)
    target: Target | None = None
    callbacks: tuple[str, ...] = ()

    @property
    def tests(self) -> bool:
        """Whether the best checkpoint is tested at the end."""
        return self.test_data is not None or self.test_share is not None


class Training(BaseModel):
    """A recipe, where its checkpoints go, where they are written first if not there, and the one it goes on from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    folder: str
    staging: str | None = None
    resume: str | None = None
