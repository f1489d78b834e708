"""The weights of a checkpoint as one file, whatever strategy wrote it, by one process that needs no GPU."""

from __future__ import annotations

import contextlib
from pathlib import Path

from scalebench.errors import UserError
from scalebench.training.manifest import (
    Manifest,
    copied,
    exported_file,
    found_checkpoint,
    read_manifest,
    sync,
)
from scalebench.training.weights import consolidated_file, sharded_values, workload_of, write_values


def export(path: Path, output: Path | None = None, *, ema: bool = False) -> Path:
    """Write the weights (fp32, safetensors) of the checkpoint `path`, or of the last one in that folder, or with `ema`
    their moving averages, into `output`; returns the file, which has its name only when whole.

    Where the checkpoint has them in a file already, that is copied; else they are put together from the ranks' shares,
    one parameter at a time. Raises UserError for no checkpoint, a damaged one, or an output that cannot be.
    """
    checkpoint = found_checkpoint(path)
    manifest = read_manifest(checkpoint)
    file = output or exported_file(checkpoint, ema)
    if file.exists():
        raise UserError(f"{file} exists already. Remove it, or give another --output.")
    unfinished = file.with_name(f".exporting-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(unfinished, checkpoint, manifest, ema)
        unfinished.rename(file)
        sync(file.parent)
    except OSError as error:
        raise UserError(
            f"{file} could not be written: {error.strerror}. Make room, or give another --output."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
    return file


def _write(file: Path, checkpoint: Path, manifest: Manifest, ema: bool) -> None:
    whole = consolidated_file(checkpoint, manifest, ema)
    if whole:
        copied(whole, file)
        return
    write_values(file, workload_of(manifest), sharded_values(checkpoint, manifest, ema))
    sync(file)
