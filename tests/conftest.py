"""For all tests: `tests` importable by name, in the processes that they start too, and the same draws every time."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several ranks share few cores, and idle threads spin

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a script's background, and then in all that tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

# A busy machine must not fail a test, nor may chance.
settings.register_profile("scalebench", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("scalebench")


def pytest_configure(config: pytest.Config) -> None:
    """What is not about GPUs is the same test where there are some: only `pytest -m gpu` sees them."""
    if not re.search(r"(?<!not )\bgpu\b", config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws does not depend on which tests came before it."""
    import torch  # the number of threads must be said before

    torch.manual_seed(0)
