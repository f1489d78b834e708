"""The processes that start ranks hold no GPU: nothing starts CUDA before a fork, and no device file is open there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from scalebench.harness.runner import PRELOADS
from tests.fake_nvml.library import build
from tests.gpu.needed import cuda

ROOT = Path(__file__).parents[2]

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


def python(*arguments: str, **variables: str) -> str:
    """What a fresh interpreter prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_nothing_that_the_fork_server_imports_starts_cuda(tmp_path: Path) -> None:
    """As on a machine with a GPU: torch seems to be built for CUDA, and NVML shows one."""
    variables = {"LD_LIBRARY_PATH": str(build(tmp_path)), "FAKE_NVML_GPUS": "1", "CUDA_VISIBLE_DEVICES": "0"}
    variables |= {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "DS_ACCELERATOR": "cuda"}
    modules = ["scalebench.harness.preload", *PRELOADS.values()]
    before, after = json.loads(python("-c", TRAPPED, *modules, **variables))
    assert before == []
    assert after != [], "the trap springs when CUDA is started"


def test_a_fork_server_that_held_a_device_would_be_found(tmp_path: Path) -> None:
    device = tmp_path / "nvidia0"
    device.touch()
    found = json.loads(
        python("-m", "tests.gpu.devices", "cpu", "tests.gpu.holds_a_device", SCALEBENCH_FAKE_DEVICE=str(device))
    )
    assert found == {"rank": [str(device)], "fork_server": [str(device)], "launcher": []}


@cuda
def test_only_ranks_hold_a_gpu_open() -> None:
    found = json.loads(python("-m", "tests.gpu.devices", "cuda"))
    assert found["rank"] != []
    assert (found["fork_server"], found["launcher"]) == ([], [])
