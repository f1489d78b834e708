"""A third party's strategy: a real small package, built and installed by pip, found by its entry point."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import ROOT, printed

PACKAGE = ROOT / "tests" / "data" / "third_party"

USE_IT = """
import torch
from scalebench import strategies
from scalebench.strategies.config import TrainConfig
from tests.distributed.toy import Toy

assert strategies.default_grad_sync("echo") == "every_micro_batch"
assert list(strategies.option_fields("echo")) == ["volume"]
echo = strategies.create("echo", {"volume": 2.0})
assert echo.options() == {"volume": 2.0}
assert type(strategies.create("ddp")).__name__ == "DDP", "ours win a clash of names"
step = echo.prepare(Toy(), TrainConfig(), torch.device("cpu"))
assert 3.0 < step([Toy().micro_batch(0, 0)]).item() < 5.0
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in it, for PYTHONPATH."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    printed("-m", "pip", "install", *options, "--target", target, PACKAGE)
    return target


def test_an_installed_package_adds_a_strategy(installed: Path) -> None:
    printed("-c", USE_IT, PYTHONPATH=f"{ROOT}:{installed}")


def test_the_command_lists_it(installed: Path) -> None:
    assert "echo" in printed("-m", "scalebench", "list", PYTHONPATH=f"{ROOT}:{installed}")
