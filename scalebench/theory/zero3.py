"""Which parameters ZeRO-3 gathers when: DeepSpeed's parameter coordinator, followed on paper.

Read in the source of DeepSpeed 0.19 (runtime/zero/partitioned_param_coordinator.py). A module's own parameters are
gathered before it runs and freed after it, in the forward as in the backward pass, unless they are small
(`param_persistence_threshold`), soon used again (`max_reuse_distance`), or were seen gathered by the prefetch, which
looks ahead in the order of use for at most `prefetch_bucket_size` elements and while less than `max_live_parameters`
are gathered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from scalebench.theory.model import Model, Module
from scalebench.theory.scheme import Zero

NEVER = -1


@dataclass(frozen=True, kw_only=True)
class Event:
    """A module's own parameters are needed (`fetch`) or no longer needed."""

    fetch: bool
    own: tuple[int, ...]


def gathers(model: Model, zero: Zero, *, checkpointing: bool = False, accumulation: int = 1) -> list[list[int]]:
    """The parameters (by index) of each all-gather of one forward and backward pass, in order."""
    return _steady_pass(model, zero, checkpointing, accumulation).calls


def most_gathered(model: Model, zero: Zero, *, checkpointing: bool = False, accumulation: int = 1) -> int:
    """The most elements gathered, or on their way, at once."""
    return _steady_pass(model, zero, checkpointing, accumulation).most


def _steady_pass(model: Model, zero: Zero, checkpointing: bool, accumulation: int) -> _Coordinator:
    """A pass like all but the first two. The first one learns the order of use; the second decides what is freed when,
    and DeepSpeed keeps to that ever after (a cache), though small parameters may not have been gathered in it yet:
    they are after an update, and the second pass comes before the first update when gradients are accumulated."""
    events, small = passes(model.root, checkpointing=checkpointing), set(persistent(model, zero))
    second = _Coordinator(model, zero, gathered=small & left_by_first(events) if accumulation > 1 else set(small))
    second.run(events)
    steady = _Coordinator(model, zero, gathered=small, freed=second.freed)
    steady.run(events)
    return steady


def left_by_first(events: Iterable[Event]) -> set[int]:
    """What the pass that learns the order leaves gathered: it frees each module's own parameters after the module, but
    those of modules that never learn that they have ended (of which only small ones stay)."""
    here = set[int]()
    for event in events:
        here = here | set(event.own) if event.fetch else here - set(event.own)
    return here


def persistent(model: Model, zero: Zero) -> list[int]:
    """The parameters (by index) that stay gathered on every rank, and are gathered again after each update."""
    return [i for i, p in enumerate(model.parameters) if p.elements <= zero.param_persistence_threshold]


def passes(root: Module, *, checkpointing: bool = False) -> list[Event]:
    """What one forward and backward pass asks for, in order."""
    forward, inputs = list[Event](), set[int]()
    _forward(root, forward, inputs)
    backward = list[Event]()
    _backward(root, backward, inputs, checkpointing)
    return forward + backward


def _forward(module: Module, events: list[Event], inputs: set[int]) -> None:
    """Append the events of a forward pass; into `inputs` go the modules (by id) whose inputs have gradients.

    They have when some module with parameters has ended before this one began.
    """
    if any(not event.fetch and event.own for event in events):
        inputs.add(id(module))
    events.append(Event(fetch=True, own=module.own))
    for child in module.children:
        _forward(child, events, inputs)
    events.append(Event(fetch=False, own=module.own))


def _backward(module: Module, events: list[Event], inputs: set[int], checkpointing: bool, began: bool = False) -> None:
    """Append the events of a backward pass. Without a gradient of its inputs a module never learns that it has ended:
    its parameters are cleared away when the whole pass is over.

    A checkpointed block is run again once its last module `began` its backward pass, up to the input of that module.
    """
    if not began:
        events.append(Event(fetch=True, own=module.own))
    last = module.children[-1] if module.children else None
    again = checkpointing and module.block and last is not None
    if again and last is not None:
        events.append(Event(fetch=True, own=last.own))
        for child in module.children:
            _forward(child, events, set())
        events.pop()
    for child in reversed(module.children):
        _backward(child, events, inputs, checkpointing, began=again and child is last)
    if id(module) in inputs:
        events.append(Event(fetch=False, own=module.own))


@dataclass
class _Coordinator:
    model: Model
    zero: Zero
    gathered: set[int] = field(default_factory=set)
    in_flight: set[int] = field(default_factory=set)
    live: int = 0
    step: int = 0
    most: int = 0
    calls: list[list[int]] = field(default_factory=list)
    freed: dict[int, set[int]] = field(default_factory=dict)
    """What is freed at which event."""

    def run(self, events: Sequence[Event]) -> None:
        self._order = [event.own for event in events if event.fetch]
        self._queue = deque((i, step) for step, own in enumerate(self._order) for i in sorted(own))
        self._last_fetched_for = [NEVER] * len(self.model.parameters)
        self._persistent = set(persistent(self.model, self.zero))
        for place, event in enumerate(events):
            if event.fetch:
                self._fetch(event.own)
            else:
                if place not in self.freed:
                    self.freed[place] = self._no_longer_needed(event.own)
                self._free(self.freed[place])

    def _fetch(self, own: tuple[int, ...]) -> None:
        self._gather([i for i in own if not self._here(i)])
        self.in_flight -= set(own)
        self.gathered |= set(own)
        wanted = {i for i in own if self._last_fetched_for[i] < self.step}
        popped = set[int]()
        while self._queue and len(popped) < len(wanted):
            index, used_at = self._queue.popleft()
            self._last_fetched_for[index] = used_at
            popped.add(index)
        self._gather(list(self._prefetched()))
        self.step += 1

    def _prefetched(self) -> Iterator[int]:
        room = min(self.zero.max_live_parameters - self.live, self.zero.prefetch_bucket_size)
        taken, elements = set[int](), 0
        while self._queue and elements < room:
            index, used_at = self._queue.popleft()
            self._last_fetched_for[index] = max(self._last_fetched_for[index], used_at)
            if not self._here(index) and index not in taken:
                taken.add(index)
                elements += self.model.parameters[index].elements
                yield index

    def _gather(self, indices: list[int]) -> None:
        if indices:
            self.calls.append(sorted(indices))
            self.in_flight |= set(indices)
            self.live += sum(p.elements for p in self.model.pick(indices))
            here = self.gathered | self.in_flight
            self.most = max(self.most, sum(p.elements for p in self.model.pick(here)))

    def _free(self, indices: set[int]) -> None:
        for index in indices & self.gathered:
            self.gathered.remove(index)
            self.live -= self.model.parameters[index].elements

    def _no_longer_needed(self, own: tuple[int, ...]) -> set[int]:
        prefetched = {index for index in own if self._last_fetched_for[index] > self.step}
        return set(own) - self._persistent - prefetched - self._used_again_soon(set(own))

    def _used_again_soon(self, own: set[int]) -> set[int]:
        again, distance = set[int](), 0
        for module in self._order[self.step :]:
            if distance >= self.zero.max_reuse_distance:
                break
            again |= own & set(module)
            distance += sum(p.elements for p in self.model.pick(module))
        return again

    def _here(self, index: int) -> bool:
        return index in self.gathered or index in self.in_flight
