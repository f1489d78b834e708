"""Faults in single runs of a sweep, really injected, and what must be recorded of each.

A sweep runs one cell per fault, and a sound one after each. Faults come from outside, as signals to a rank, or from
a third party's backend that goes wrong on one rank.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalebench import strategies
from scalebench.harness.phase import PHASES
from scalebench.records.record import Record
from scalebench.spec import PlannedRun, RunSpec
from tests.distributed.sweeps import ROOT, Sweep

STRATEGIES = ("ddp", "fsdp", "deepspeed_stage_3")
BACKENDS = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'data' / 'faulty'}"}
ENDLESS = 10**6
TIMEOUT_SECONDS = 4.0
"""What `--timeout` is in runs that hang, so that they do not hang for long."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong in a run, and what must be recorded.

    Attributes:
        at: the phase in which `action` is taken on the process of rank `rank`; `start`: as soon as there is one.
        backend: options of a backend that goes wrong by itself.
        status, reason, culprit: of the record; `reason` is a regular expression, `culprit` the error's rank.
        within: seconds from the fault to the record.
    """

    name: str
    rank: int = 1
    at: str | None = None
    action: Callable[[int], object] = lambda pid: None
    backend: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    status: str = "failed"
    reason: str
    within: float = 5.0

    def is_due(self, phase: str | None) -> bool:
        """Whether to act now; a phase may pass too fast to be seen."""
        if self.at is None or phase is None or "start" in (self.at, phase):
            return self.at == phase
        return PHASES.index(phase) >= PHASES.index(self.at)

    def spec(self, strategy: str) -> RunSpec:
        """The cell in which it happens."""
        if self.backend:
            options = self.backend | {"rank": self.rank}
            return cell(f"faulty_{strategy}", strategy_options=options, **self.changes)
        return cell(strategy, **self.changes)

    def wrong(self, record: Record, seconds: float | None) -> Iterator[str]:
        """What `record` has that it must not have; it came `seconds` after the fault."""
        if record.status != self.status:
            yield f"{self.name}: {record.status}, not {self.status} ({record.reason})"
        elif not re.search(self.reason, record.reason or ""):
            yield f"{self.name}: the reason is {record.reason!r}"
        if record.error is None or record.error.rank != self.rank:
            yield f"{self.name}: the culprit is {record.error and record.error.rank}, not {self.rank}"
        if self.at and (seconds is None or seconds > self.within):
            yield f"{self.name}: ended after {seconds} s, not {self.within:g}"


def cell(strategy: str, **changes: Any) -> RunSpec:
    """A tiny cell on two ranks."""
    fields: dict[str, Any] = {
        "workload": "gpt", "size": "tiny", "data": "synthetic", "strategy": strategy, "device": "cpu",
        "workload_options": {"num_layers": 1, "hidden_size": 32, "num_heads": 2, "context_length": 16},
        "world_size": 2, "threads_per_rank": 1, "micro_batch": 1, "warmup_steps": 1, "steps": 10,
        "grad_sync": strategies.default_grad_sync(strategy.removeprefix("faulty_")), "timeout_seconds": 60.0,
    }  # fmt: skip
    return RunSpec.model_validate(fields | changes)


def kill(number: int) -> Callable[[int], object]:
    return lambda pid: os.kill(pid, number)


def killed(rank: int, at: str, **changes: Any) -> Fault:
    return Fault(
        name=f"SIGKILL of rank {rank}, {at}",
        rank=rank,
        at=at,
        action=kill(signal.SIGKILL),
        changes=changes,
        reason=rf"rank {rank}: Killed: by signal 9 \(SIGKILL\)",
    )


LONG_WARM_UP = {"warmup_steps": ENDLESS}
LONG_WINDOW = {"steps": ENDLESS}
LONG_PREPARATION = LONG_WARM_UP | {"workload_options": {"num_layers": 8, "hidden_size": 512}}
SHORT_PATIENCE = {"timeout_seconds": TIMEOUT_SECONDS}

FAULTS = (
    *(killed(rank, "start") for rank in (0, 1)),
    *(killed(rank, "preparing", **LONG_PREPARATION) for rank in (0, 1)),
    *(killed(rank, "warm-up", **LONG_WARM_UP) for rank in (0, 1)),
    *(killed(rank, "measuring", **LONG_WINDOW) for rank in (0, 1)),
    *(killed(rank, "diagnostics") for rank in (0, 1)),
    Fault(
        name="SIGSTOP in the window",
        at="measuring",
        action=kill(signal.SIGSTOP),
        changes=LONG_WINDOW,
        status="timeout",
        reason="rank 1: Stopped: by a signal",
        within=7.0,
    ),
    Fault(
        name="SIGSTOP at the start: never joins",
        at="start",
        action=kill(signal.SIGSTOP),
        status="timeout",
        reason="rank 1: Stopped: by a signal",
        within=7.0,
    ),
    Fault(
        name="SIGSEGV in the window",
        at="measuring",
        action=kill(signal.SIGSEGV),
        changes=LONG_WINDOW,
        reason=r"rank 1: Killed: by signal 11 \(SIGSEGV\)",
    ),
    Fault(
        name="exception on one rank", backend={"fault": "raise"}, reason="rank 1: ValueError: deliberate, on one rank"
    ),
    Fault(name="exit without a word", backend={"fault": "exit"}, reason="rank 1: Exited: with code 7"),
    Fault(name="abort", backend={"fault": "abort"}, reason=r"rank 1: Killed: by signal 6 \(SIGABRT\)"),
    Fault(
        name="hang in a step",
        backend={"fault": "hang"},
        changes=SHORT_PATIENCE,
        status="timeout",
        reason=r"rank 1: Hung: no rank did anything for 4 s .* it was in .*faulty.py:\d+",
        within=TIMEOUT_SECONDS + 3,
    ),
    Fault(
        name="absent: never joins",
        backend={"fault": "absent"},
        changes=SHORT_PATIENCE,
        status="timeout",
        reason="rank 1: Hung: no rank did anything for 4 s in the phase joining; it was in .*faulty.py",
        within=TIMEOUT_SECONDS + 3,
    ),
    Fault(
        name="an allocation that cannot be",
        backend={"fault": "ask for too much"},
        status="oom",
        reason=r"rank 1: RuntimeError: .* \(4.19e\+06 GiB asked, [\d.]+ \w+ free of ",
    ),
)


def inject(sweep: Sweep, faults: Sequence[Fault]) -> dict[int, float]:
    """Follow `sweep`, whose every second run has one of `faults`, and do what they say; seconds from each to its end.

    By the number of the fault. Those of a backend that goes wrong by itself are not known.
    """
    began: dict[int, float] = {}
    ended: dict[int, float] = {}
    for event in sweep.events():
        number, sound = divmod(event.get("index", 1), 2)
        if sound:
            continue
        fault, phase = faults[number], event.get("phase", "start" if event["event"] == "run" else None)
        if event["event"] == "ended":
            ended[number] = time.monotonic()
        elif fault.is_due(phase) and number not in began:
            fault.action(sweep.pid(fault.rank))
            began[number] = time.monotonic()
    return {number: ended[number] - began[number] for number in began.keys() & ended.keys()}


def planned(strategy: str, faults: Sequence[Fault]) -> list[PlannedRun]:
    """A run per fault, each with a sound one after it."""
    return [
        PlannedRun(spec=spec, repeat=number)
        for number, fault in enumerate(faults)
        for spec in (fault.spec(strategy), cell(strategy, seed=1))
    ]


@dataclass(frozen=True, kw_only=True)
class Suffered:
    """What came of a fault: what was not as it must be, and seconds from it to the end of its run."""

    fault: Fault
    wrong: list[str]
    seconds: float | None


def suffer(strategy: str, faults: Sequence[Fault], folder: Path) -> list[Suffered]:
    """Make a sweep suffer `faults`, one after the other."""
    with Sweep(folder, runs=planned(strategy, faults), variables=BACKENDS) as sweep:
        seconds = inject(sweep, faults)
        left, records = sweep.left(), sweep.records()
    pairs = [records[start : start + 2] for start in range(0, 2 * len(faults), 2)]
    found = []
    for number, (fault, pair) in enumerate(zip(faults, pairs, strict=True)):
        if len(pair) < 2:
            wrong = [f"{len(records)} records in all; {sweep.errors()[-500:]}"]
        else:
            wrong = [*fault.wrong(pair[0], seconds.get(number)), *(f"left: {what}" for what in left)]
            wrong += [f"the next run: {pair[1].status}, {pair[1].reason}"] if pair[1].status != "ok" else []
        found.append(Suffered(fault=fault, wrong=wrong, seconds=seconds.get(number)))
    return found
