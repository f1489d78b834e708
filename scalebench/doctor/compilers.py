"""What compiles on the spot: torch.compile's kernels and DeepSpeed's extensions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scalebench.doctor.finding import CannotTellError, Finding, note, ok, problem
from scalebench.doctor.interpreter import ending, run, torch_facts
from scalebench.doctor.versions import numbers

COMPILE_SECONDS = 60.0
PROGRAM = "#include <vector>\n#include <Python.h>\nint main() { return std::vector<int>(1)[0]; }\n"


def cxx() -> Iterator[Finding]:
    """Runs with --compile need a C++ compiler and Python's headers; so does every extension of DeepSpeed."""
    asked = os.environ.get("CXX")
    compiler = (
        shutil.which(asked.split()[0])
        if asked
        else shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    )
    remedy = "apt-get install g++ python3-dev (or: conda install gxx_linux-64)"
    if compiler is None:
        yield problem(f"no C++ compiler{f' (CXX={asked})' if asked else ' on PATH'}", remedy)
        return
    with tempfile.TemporaryDirectory(prefix="scalebench-") as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(PROGRAM)
        command = [compiler, "-fsyntax-only", "-I", sysconfig.get_path("include"), str(source)]
        code, _, err = run(command, COMPILE_SECONDS, LC_ALL="C")
    if code:
        errors = [line for line in err.splitlines() if "error" in line]
        yield problem(f"{compiler} fails: {errors[0] if errors else ending(code, err)}", remedy)
    elif code is None:
        yield problem(f"{compiler} did not end within {COMPILE_SECONDS:.0f} s", "try another: export CXX=...")
    else:
        yield ok(f"{compiler}, with Python's headers")


def ninja() -> Iterator[Finding]:
    """DeepSpeed and torch build extensions with ninja; scalebench itself has none built."""
    found = shutil.which("ninja")
    yield ok(found) if found else note("no ninja on PATH", "pip install ninja")


def nvcc() -> Iterator[Finding]:
    """Extensions of DeepSpeed for GPUs need a CUDA compiler of torch's CUDA; scalebench itself has none built."""
    built = torch_facts()["cuda"]
    if not built:
        raise CannotTellError("torch is built without CUDA: there is nothing to compile for GPUs")
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = (
        shutil.which("nvcc", path=f"{home}/bin")
        if home
        else shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    )
    if found is None:
        where = f"in CUDA_HOME={home}" if home else "on PATH"
        yield note(f"no nvcc {where}", f"install CUDA {built}'s toolkit and export CUDA_HOME=...")
        return
    said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    release = re.search(r"release (\d+\.\d+)", said.stdout)
    if release is None:
        yield note(f"{found} does not tell its version", f"install CUDA {built}'s toolkit")
    elif numbers(release[1])[0] != numbers(built)[0]:
        yield problem(
            f"{found} is of CUDA {release[1]}, torch is built for {built}",
            f"export CUDA_HOME=... with CUDA {numbers(built)[0]}",
        )
    else:
        yield ok(f"{found}, CUDA {release[1]}; torch is built for {built}")


CHECKS = (cxx, ninja, nvcc)
