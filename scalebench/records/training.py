"""What a training went through: its validations, its checkpoints and why it ended."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from scalebench.records.facts import Computed, Facts

Ended = Literal["steps", "target", "patience"]


class Evaluation(Facts):
    """One validation.

    Attributes:
        step: optimizer steps before it. samples: as many training samples.
        elapsed_seconds: since the first step began: steps, validations and checkpoints, of all parts of a resumed
            training, without the time between the parts and of their start.
        seconds: its own duration, with what was generated. generate_seconds: the part of it that this took.
        rank_samples: how many of the validated samples each rank took. rank_seconds: how long each was busy with them,
            and not waiting for others that were.
    """

    step: int
    samples: int
    elapsed_seconds: float
    seconds: float
    metrics: dict[str, Computed]
    generate_seconds: float | None = None
    rank_samples: list[int] = Field(default_factory=list)
    rank_seconds: list[float] = Field(default_factory=list)


class Sheet(Facts):
    """Generated samples as one picture: how many, after how many steps, and the file, by its path from the record's
    folder."""

    step: int
    samples: int
    file: str


class Test(Facts):
    """What a checkpoint's weights came to on data that chose nothing; `seconds` with building the model again."""

    checkpoint: str
    step: int
    samples: int
    seconds: float
    metrics: dict[str, Computed]


class Save(Facts):
    """One checkpoint.

    Attributes:
        step: optimizer steps before it.
        seconds: for how long training stood still. durable_seconds: until it was on disk under its name: as long, but
            for one that was saved asynchronously. None in older records.
        file_bytes: what all its files hold.
    """

    step: int
    seconds: float
    durable_seconds: float | None = None
    file_bytes: int


class TrainingFacts(Facts):
    """What happened in one part of a training: all of it, unless it was resumed.

    Attributes:
        first_step: steps that a checkpoint had behind it when this part began. resumed_from: that checkpoint.
        load_seconds: what taking it up took.
        evaluations: of all parts. saves: of this one.
        elapsed_seconds: as an evaluation has it, at the end.
        train_samples, val_samples: how many there are of each.
        sheets: samples generated in this part. test: of the best checkpoint, at the end.
        best: the checkpoint that was best at the end. last: the last one.
    """

    first_step: int = 0
    resumed_from: str | None = None
    load_seconds: float | None = None
    evaluations: list[Evaluation] = Field(default_factory=list)
    saves: list[Save] = Field(default_factory=list)
    elapsed_seconds: float
    train_samples: int
    val_samples: int
    ended: Ended
    sheets: list[Sheet] = Field(default_factory=list)
    test: Test | None = None
    best: str | None = None
    last: str | None = None
