"""The flags of `scalebench run`: one for every field of a Request, so that flags and configuration keys never part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem
from pydantic.fields import FieldInfo

from scalebench import strategies, workloads
from scalebench.matrix import Request
from scalebench.strategies.config import PRECISIONS

NAMES: Mapping[str, Callable[[], Iterable[str]]] = {
    "strategy": strategies.entries,
    "workload": lambda: workloads.FAMILIES,
    "size": lambda: [size for name in workloads.FAMILIES for size in workloads.size_names(name)],
    "precision": lambda: PRECISIONS,
}
"""Lists whose items a shell can complete."""


class Finite(click.FloatRange):
    """A number in a range; neither `inf` nor `nan`, which click takes for one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def request_flags() -> list[click.Option]:
    """A flag per described field, in their order. Values stay text: Request reads them, from files and flags alike."""
    return [_flag(name, field) for name, field in Request.model_fields.items() if field.description]


def _flag(name: str, field: FieldInfo) -> click.Option:
    flag = name.replace("_", "-")
    if field.title is None:
        return click.Option([f"--{flag}/--no-{flag}"], default=None, help=field.description)
    complete = _complete_list(NAMES[name]) if name in NAMES else _complete_words(field.title)
    return click.Option([f"--{flag}"], metavar=field.title, help=field.description, shell_complete=complete)


Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _complete_list(names: Callable[[], Iterable[str]]) -> Completion:
    """Completes the last name of a comma-separated list."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(before + comma + name) for name in names() if name.startswith(last)]

    return complete


def _complete_words(metavar: str) -> Completion:
    """Completes the words of a metavar such as `adamw|sgd`; paths for PATH and DIR."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if metavar in ("PATH", "DIR"):
            return [CompletionItem(incomplete, type="dir" if metavar == "DIR" else "file")]
        words = [word for word in metavar.replace(",...", "").split("|") if word.islower() or "-" in word]
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]

    return complete
