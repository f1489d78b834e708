"""A pairwise cover: few cells, among which every feasible pair of values of two axes occurs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

Cell = dict[str, str]
"""The value of each axis, by its name."""
Pair = tuple[tuple[str, str], tuple[str, str]]


def feasible_cells(axes: Mapping[str, Sequence[str]], feasible: Callable[[Cell], bool]) -> list[Cell]:
    """Every combination of the values of `axes` that is `feasible`."""
    cells = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    return [cell for cell in cells if feasible(cell)]


def pairs_of(cell: Cell) -> set[Pair]:
    """The values of any two axes that occur together in `cell`."""
    return set(itertools.combinations(sorted(cell.items()), 2))


def pairs_in(cells: Iterable[Cell]) -> set[Pair]:
    """The pairs that occur in any of `cells`."""
    return {pair for cell in cells for pair in pairs_of(cell)}


def cover(cells: Sequence[Cell]) -> list[Cell]:
    """Some of `cells` in which each pair that occurs in `cells` occurs: the next is always the one with most new pairs.

    Source: the greedy rule of AETG (Cohen et al., IEEE Trans. Software Eng. 23(7), 1997), over all cells rather than
    random candidates. Of equals the first is taken, so that the cover is the same whenever it is made.
    """
    missing, chosen = pairs_in(cells), list[Cell]()
    while missing:
        best = max(cells, key=lambda cell: len(pairs_of(cell) & missing))
        chosen.append(best)
        missing -= pairs_of(best)
    return chosen
