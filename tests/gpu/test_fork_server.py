"""The processes that start ranks hold no GPU: nothing starts CUDA before a fork, and no device file is open there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scalebench.harness.runner import PRELOADS
from tests.fake_nvml.library import build
from tests.gpu.needed import cuda
from tests.processes import printed

TRAPPED = """
from tests.gpu import trap
import importlib, json, sys, torch
assert torch.cuda.is_available(), "NVML shows a GPU"
for name in sys.argv[1:]:
    importlib.import_module(name)
before = list(trap.attempts)
try:
    torch.cuda.init()
except RuntimeError:
    pass
print(json.dumps([before, trap.attempts]))
"""


def last_line(*arguments: str, **variables: str) -> Any:
    """Of what a fresh interpreter prints: JSON."""
    return json.loads(printed(*arguments, **variables).splitlines()[-1])


def test_nothing_that_the_fork_server_imports_starts_cuda(tmp_path: Path) -> None:
    """As on a machine with a GPU: torch seems to be built for CUDA, and NVML shows one."""
    variables = {"LD_LIBRARY_PATH": str(build(tmp_path)), "FAKE_NVML_GPUS": "1", "CUDA_VISIBLE_DEVICES": "0"}
    variables |= {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "DS_ACCELERATOR": "cuda"}
    modules = ["scalebench.harness.preload", *PRELOADS.values()]
    before, after = last_line("-c", TRAPPED, *modules, **variables)
    assert before == []
    assert after != [], "the trap springs when CUDA is started"


def test_a_fork_server_that_held_a_device_would_be_found(tmp_path: Path) -> None:
    device = tmp_path / "nvidia0"
    device.touch()
    held = ("cpu", "tests.gpu.holds_a_device")
    found = last_line("-m", "tests.gpu.devices", *held, SCALEBENCH_FAKE_DEVICE=str(device))
    assert found == {"rank": [str(device)], "fork_server": [str(device)], "launcher": []}


@cuda
def test_only_ranks_hold_a_gpu_open() -> None:
    found = last_line("-m", "tests.gpu.devices", "cuda")
    assert found["rank"] != []
    assert (found["fork_server"], found["launcher"]) == ([], [])
