"""`scalebench train --export`: the weights of a checkpoint as one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from scalebench.errors import EXIT_OK, UserError

ITS_FLAGS = ("export", "output", "averages")


def asked_to_export(flags: Mapping[str, Any]) -> bool:
    """Whether `flags` ask for an export. Raises UserError for those that go with none, or not with one."""
    own = [name for name in ITS_FLAGS if name in flags]
    others = [name for name in flags if name not in ITS_FLAGS]
    if own and "export" not in own:
        raise UserError(f"--{own[0]} says how to export a checkpoint. Name it: --export PATH.")
    if own and others:
        raise UserError(f"--export trains nothing. Leave --{others[0].replace('_', '-')} out.")
    return bool(own)


def carry_out_export(flags: Mapping[str, Any]) -> int:
    """Export, and say what to do with it."""
    from scalebench.training.export import export

    output = Path(flags["output"]) if "output" in flags else None
    file = export(Path(flags["export"]), output, ema=flags.get("averages", False))
    click.echo(f"{file}: {file.stat().st_size / 2**20:,.1f} MiB. Start from it with --init-from {file}")
    return EXIT_OK
