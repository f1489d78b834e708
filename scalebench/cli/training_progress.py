"""How a training stands: a bar on a terminal, now and then a line elsewhere. On standard error, from one process."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scalebench.recipe import Recipe
from scalebench.training.board import Board, Standing

LOOK_SECONDS = 0.5
LINE_SECONDS = 10.0


@contextmanager
def showing(board: Board, recipe: Recipe, first: int = 0, console: Console | None = None) -> Iterator[None]:
    """While inside, what ranks write on `board` is shown; a training that goes on begins at step `first`."""
    console = console or Console(stderr=True, highlight=False)
    over = threading.Event()
    draw = _bar if console.is_terminal else _lines
    thread = threading.Thread(target=draw, args=(board, recipe, first, console, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _bar(board: Board, recipe: Recipe, first: int, console: Console, over: threading.Event) -> None:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=recipe.steps, completed=first)
        ending = False
        while not ending:
            ending = over.wait(LOOK_SECONDS)
            standing = board.read()
            if standing.step:
                progress.update(task, completed=standing.step, description=described(standing, recipe))


def _lines(board: Board, recipe: Recipe, first: int, console: Console, over: threading.Event) -> None:
    """A line after each validation, and one when there has been none for a while."""
    told, since, ending = Standing(), 0.0, False
    while not ending:
        ending = over.wait(LOOK_SECONDS)
        standing, since = board.read(), since + LOOK_SECONDS
        validated = standing.validations != told.validations
        if standing.step != told.step and (validated or since >= LINE_SECONDS):
            text = f"step {standing.step:.0f} of {recipe.steps}: {described(standing, recipe)}"
            console.print(text, markup=False, soft_wrap=True)
            told, since = standing, 0.0


def described(standing: Standing, recipe: Recipe) -> str:
    """`loss 2.1, lr 0.0003, 1,234 items/s, val_loss 2.2`, what is known of it."""
    known = {
        "loss {:.4g}": standing.loss,
        "lr {:.3g}": standing.learning_rate,
        "{:,.0f} items/s": standing.rate,
        f"val_{recipe.monitor} {{:.4g}}": standing.metric,
    }
    return ", ".join(text.format(value) for text, value in known.items() if not math.isnan(value))
