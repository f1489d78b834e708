"""The pytest plugin: a fixture `scalebench` that measures a spec, fed into pytest-benchmark, and gates of our own.

Loaded by every pytest run on this machine, so it imports nothing but pytest until a test asks for the fixture.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from scalebench.pytest_runs import Measurer

FIXTURE = "scalebench"
SERIALLY = (
    "scalebench measures one thing at a time, and pytest-xdist runs tests beside each other. Run these tests without "
    "it: pytest -n 0, or -p no:xdist"
)
UNKNOWN_BENCHMARK = (
    "{name} is not in the baseline that --benchmark-compare names, so pytest-benchmark has nothing to hold it against "
    "and would pass whatever it took. Save a baseline that has it: pytest --benchmark-save=NAME"
)
DURATIONS: pytest.StashKey[deque[float]] = pytest.StashKey()
MEASURED: pytest.StashKey[dict[str, int]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("scalebench")
    group.addoption(
        "--scalebench-results",
        metavar="DIR",
        default=os.path.join("results", "pytest"),
        help="Folder that the records of tests with the scalebench fixture go to.  [default: %(default)s]",
    )
    group.addoption(
        "--scalebench-baseline",
        metavar="DIR|REV:DIR",
        help="Records of earlier runs (--scalebench-results) that tests must not be worse than; 3 runs at least.",
    )
    group.addoption(
        "--scalebench-against",
        metavar="CHECKOUT",
        help="Another source tree of what is tested, measured in turn with this one: tests must not be worse than it.",
    )
    group.addoption(
        "--scalebench-inconclusive",
        choices=("fail", "pass"),
        default="fail",
        help="What a test comes to whose mark names an effect that its data cannot show.  [default: %(default)s]",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        'scalebench(slower="5%", memory="2%", ...): worsenings of the scalebench fixture\'s run, against the baseline, '
        "that fail the test; any metric of `scalebench compare --limit`.",
    )
    config.stash[MEASURED] = {}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give pytest-benchmark a clock that replays what the ranks measured, beside whatever the test says itself."""
    if FIXTURE not in getattr(item, "fixturenames", ()):
        return
    durations: deque[float] = deque()
    item.stash[DURATIONS] = durations
    said = item.get_closest_marker("benchmark")
    options = dict(said.kwargs) if said else {}
    item.add_marker(pytest.mark.benchmark(**options | {"timer": recorded_clock(durations)}), append=False)


def recorded_clock(durations: deque[float]) -> Callable[[], float]:
    """A clock that says 0 and then the next duration, so that their difference is that duration to the last bit."""
    stopped = True

    def recorded_steps() -> float:
        nonlocal stopped
        stopped = not stopped
        return durations.popleft() if stopped else 0.0

    return recorded_steps


@pytest.fixture
def scalebench(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[Measurer]:
    """Call it with what `scalebench run` takes, as one cell: `scalebench(strategy="ddp", gpus=2, steps=50)`.

    Returns what was measured (scalebench.pytest_runs.Measured). Once per test.
    """
    config = request.config
    if os.environ.get("PYTEST_XDIST_WORKER") or hasattr(config, "workerinput"):
        pytest.fail(SERIALLY, pytrace=False)
    from scalebench.pytest_runs import Measurer

    mark = request.node.get_closest_marker(FIXTURE)
    yield Measurer(
        config=config,
        benchmark=benchmark,
        durations=request.node.stash[DURATIONS],
        limits=dict(mark.kwargs) if mark else {},
        tests=sum(FIXTURE in getattr(item, "fixturenames", ()) for item in request.session.items),
        repeats_made=config.stash[MEASURED],
    )
    session = getattr(config, "_benchmarksession", None)
    if benchmark.stats is not None and session is not None and session.compare:
        known = {name for found in (session.compared_mapping or {}).values() for name in found}
        if benchmark.fullname not in known:
            pytest.fail(UNKNOWN_BENCHMARK.format(name=benchmark.fullname), pytrace=False)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """What a failed test measured is no baseline: pytest-benchmark leaves out what is marked so."""
    outcome = yield
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if DURATIONS in item.stash and benchmark is not None and outcome.get_result().failed and call.when == "call":
        benchmark.has_error = True
