"""What README and docs tell to type is what the command takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from scalebench.cli.asking import Asked, read_assignments
from scalebench.cli.main import scalebench

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TYPED = re.compile(r"^(?: {4}|[$] )?(?:torchrun [^#\n]* -m )?scalebench ([a-z][^#\n]*)", re.MULTILINE)
NOT_OF_A_REQUEST = {"assignments", "config", "deepspeed_config", "json_lines", "local_rank", "dry_run", "force"}


def commands() -> list[tuple[str, str]]:
    """Each page with each line of its code blocks that starts with the command, comments left out."""
    return [
        (page.name, typed.strip())
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```|((?:^ {4}\S.*\n)+)", page.read_text(), re.DOTALL | re.MULTILINE)
        for typed in TYPED.findall("".join(block))
    ]


@pytest.mark.parametrize(("page", "typed"), commands())
def test_it_is_taken(page: str, typed: str) -> None:
    words = shlex.split(typed)
    group = scalebench.make_context("scalebench", list(words))
    name, command, rest = scalebench.resolve_command(group, words)
    while isinstance(command, click.Group):
        group = command.make_context(name, [], parent=group, resilient_parsing=True)
        name, command, rest = command.resolve_command(group, rest)
    assert command is not None
    params = command.make_context(name, rest, parent=group).params
    if name in ("run", "parity"):
        given = {key: value for key, value in params.items() if value is not None and key not in NOT_OF_A_REQUEST}
        assert Asked(flags=given | {"set": read_assignments(params["assignments"])}, table={}).request().strategy or (
            params["config"] and (ROOT / params["config"]).exists()
        )


def test_there_are_some() -> None:
    assert len(commands()) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_make_targets_exist(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"`make ([a-z-]+)|^ {4}make ([a-z-]+)|^make ([a-z-]+)", text, re.MULTILINE):
        assert "".join(target) in targets, target
