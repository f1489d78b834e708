"""What a checkpoint's folder says of itself, and which folders are checkpoints. Torch-free.

A folder without its manifest is no checkpoint: the manifest is written last, and the folder gets its name after that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scalebench.errors import UserError
from scalebench.recipe import Contents, Recipe
from scalebench.records.training import Evaluation
from scalebench.spec import RunSpec

MANIFEST = "checkpoint.json"
NAME = re.compile(r"step-\d{8,}")
UNFINISHED = ".writing-"
STATE, WEIGHTS, AVERAGES = "state", "weights.safetensors", "averages.safetensors"
HASHED_AT_ONCE_BYTES = 2**20


class DamagedError(UserError):
    """A checkpoint that is not what was written."""


class HeldFile(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_bytes: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel):
    """What a checkpoint holds and how its training stands.

    Attributes:
        step: optimizer steps behind it. elapsed_seconds, evaluations: as TrainingFacts has them, so far.
        spec, recipe: the hyper-parameters that it was trained with.
        files: every other file of the folder, by its path in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint_format: Literal[1] = 1
    step: int = Field(ge=1)
    elapsed_seconds: float
    evaluations: list[Evaluation] = Field(default_factory=list)
    contents: Contents
    spec: RunSpec
    recipe: Recipe
    files: dict[str, HeldFile] = Field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """Of the validation at its step; empty when there was none."""
        last = self.evaluations[-1] if self.evaluations else None
        return last.metrics if last and last.step == self.step else {}


def checkpoint_name(step: int) -> str:
    """`step-00001000`."""
    return f"step-{step:08d}"


def exported_file(checkpoint: Path, ema: bool = False) -> Path:
    """Where its weights, or averages, are consolidated to unless another place is named: beside the checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}{'-averages' if ema else ''}.safetensors")


def checkpoints_in(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, in the order of their steps."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and (path / MANIFEST).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def read_manifest(checkpoint: Path) -> Manifest:
    """Of a checkpoint's folder. Raises UserError when it is none, DamagedError for what this version cannot read."""
    file = checkpoint / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(
            f"{checkpoint} is no checkpoint of scalebench: {MANIFEST} is missing or unreadable ({error.strerror}). "
            "Give a folder that `scalebench train` has written."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise DamagedError(f"{file} is damaged or of another version: {place}: {first['msg']}.") from error


def found_checkpoint(path: Path) -> Path:
    """`path` itself if it is a checkpoint, else the last one in it. Raises UserError when there is none."""
    if (path / MANIFEST).is_file():
        return path
    found = checkpoints_in(path)
    if not found:
        reason = "holds no whole checkpoint" if path.exists() else "does not exist"
        raise UserError(f"{path} {reason}. Give the folder that --checkpoint-dir named, or one of its checkpoints.")
    return found[-1]


def sha256_of(file: Path) -> str:
    """Hex digest of a file's contents."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(HASHED_AT_ONCE_BYTES):
            digest.update(part)
    return digest.hexdigest()


def copied(source: Path, target: Path) -> HeldFile:
    """What a file holds, now also in `target` and on disk."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as opened, target.open("wb") as new:
        while part := opened.read(HASHED_AT_ONCE_BYTES):
            digest.update(part)
            size += new.write(part)
        new.flush()
        os.fsync(new.fileno())
    return HeldFile(file_bytes=size, sha256=digest.hexdigest())


def sync(path: Path) -> None:
    """Let a file or a folder reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(PermissionError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
