"""What to try next: generators that yield a value, are sent what became of it, and end with the answer. Pure.

How runs come about is none of their business, so they are tested against every outcome there can be.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Value = TypeVar("Value")
Reply = TypeVar("Reply")
Result = TypeVar("Result")

SLOWER = 0.9
"""A candidate below this share of the best throughput is slower beyond what a short run may be wrong by."""
SLOWER_IN_A_ROW = 2


@dataclass(frozen=True, kw_only=True)
class Edge:
    """Neighbours among the values: `largest` fits, `refused`, the next one, does not.

    None: nothing fits; nothing is refused.
    """

    largest: int | None
    refused: int | None


def find_edge(values: Sequence[int], start: int = 0) -> Generator[int, bool, Edge]:
    """Yields values to try, takes whether each fits, returns the edge among `values` (ascending).

    Begins at the index `start`, doubles the index while values fit (or halves it while they do not), then bisects.
    No value is asked for twice, and every answer narrows what is left, so that it ends whatever it is told: where what
    fits is not monotone, at one of the edges there are.
    """
    largest, refused, place = -1, len(values), start
    while refused - largest > 1:
        if (yield values[place]):
            largest = place
        else:
            refused = place
        if refused == len(values):
            place = min(2 * largest + 1, refused - 1)
        else:
            place = (largest + refused) // 2 if largest >= 0 else (refused - 1) // 2
    return Edge(
        largest=values[largest] if largest >= 0 else None, refused=values[refused] if refused < len(values) else None
    )


def candidates(values: Sequence[int], largest: int) -> list[int]:
    """What throughput is compared at, descending: `largest`, and for each power of two the largest of `values`
    (ascending) that does not exceed it."""
    powers = (1 << power for power in range(largest.bit_length()))
    nearest = {values[place - 1] for power in powers if (place := bisect_right(values, power))}
    return sorted({largest, *nearest}, reverse=True)


def compare(values: Sequence[int]) -> Generator[int, float | None, dict[int, float]]:
    """Yields `values` in order, takes the throughput of each (None: it has none), returns those there are.

    Ends early when two in a row are clearly slower than the best: those that follow are smaller, and slower still.
    """
    rates: dict[int, float] = {}
    slower = 0
    for value in values:
        rate = yield value
        if rate is not None:
            rates[value] = rate
            slower = slower + 1 if rate < SLOWER * max(rates.values()) else 0
        if slower == SLOWER_IN_A_ROW:
            break
    return rates


def follow(rule: Generator[Value, Reply, Result], answer: Callable[[Value], Reply]) -> Result:
    """Carry `rule` out: what it yields is answered, what it returns is returned."""
    try:
        value = next(rule)
        while True:
            value = rule.send(answer(value))
    except StopIteration as over:
        result: Result = over.value
        return result
