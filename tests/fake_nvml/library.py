"""NVML without a GPU: compile the stand-in library and run code whose pynvml loads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parent / "nvml.c"
ROOT = Path(__file__).parents[2]


def build(folder: Path, *flags: str) -> Path:
    """Compile the stand-in into `folder`; skips the test where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc)")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", *flags, "-o", str(library), str(SOURCE)], check=True)
    return folder


def run(library: Path, code: str, **environment: str) -> Any:
    """Run `code` in a fresh interpreter with the stand-in in `library`; what it assigns to `result`, through JSON."""
    variables = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    variables |= {"LD_LIBRARY_PATH": str(library), "PYTHONPATH": str(ROOT), **environment}
    script = f"import json\n{code}\nprint(json.dumps(result))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
