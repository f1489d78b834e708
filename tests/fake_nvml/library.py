"""NVML without a GPU: compile the stand-in library and run code whose pynvml loads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.processes import printed

SOURCE = Path(__file__).parent / "nvml.c"


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
    visible = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    script = f"import json\n{code}\nprint(json.dumps(result))"
    return json.loads(printed("-c", script, environment=visible, LD_LIBRARY_PATH=str(library), **environment))
