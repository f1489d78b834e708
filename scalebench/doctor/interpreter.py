"""Asking torch and DeepSpeed in a fresh interpreter: a broken one may hang or crash the process that imports it."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from scalebench.doctor.finding import CannotTellError

IMPORT_TIMEOUT_SECONDS = 60.0

LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Set by torchrun for its ranks; left over, they make a process wait for ranks that nobody starts."""

TORCH_FACTS = """
import torch
cuda = bool(torch.version.cuda)
facts = {
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "hip": torch.version.hip,
    "distributed": torch.distributed.is_available(),
    "gloo": torch.distributed.is_available() and torch.distributed.is_gloo_available(),
    "nccl": list(torch.cuda.nccl.version()) if cuda and torch.distributed.is_nccl_available() else None,
    "cuda_works": torch.cuda.is_available(),
    "architectures": torch.cuda.get_arch_list() if cuda else [],
}
"""

DEEPSPEED_FACTS = """
import deepspeed
from deepspeed import git_version_info as built
facts = {
    "version": deepspeed.__version__,
    "prebuilt": sorted(name for name, there in built.installed_ops.items() if there),
    "built_for": {name: str(value) for name, value in built.torch_info.items()},
}
"""


@functools.cache
def torch_facts() -> dict[str, Any]:
    """What torch says of itself. Raises CannotTellError with the last line of what its import said."""
    return facts_of("torch", TORCH_FACTS)


@functools.cache
def deepspeed_facts() -> dict[str, Any]:
    """What DeepSpeed says of itself, imported for the CPU. Raises CannotTellError as torch_facts does."""
    return facts_of("deepspeed", DEEPSPEED_FACTS)


def facts_of(package: str, code: str) -> dict[str, Any]:
    """The dict `facts` that `code` leaves in a fresh interpreter. Raises CannotTellError when there is none."""
    script = f"{code}\nimport json\nprint('\\n' + json.dumps(facts))"
    code_ended, out, err = run([sys.executable, "-c", script], IMPORT_TIMEOUT_SECONDS, DS_ACCELERATOR="cpu")
    if code_ended is None:
        raise CannotTellError(f"importing {package} did not end within {IMPORT_TIMEOUT_SECONDS:.0f} s")
    if code_ended:
        raise CannotTellError(f"importing {package} failed: {ending(code_ended, err)}")
    facts: dict[str, Any] = json.loads(out.splitlines()[-1])
    return facts


def run(command: Sequence[str], timeout: float, **variables: str) -> tuple[int | None, str, str]:
    """Exit code (None: killed, with all it started, after `timeout` seconds), standard output and standard error."""
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    environment |= {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", **variables}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return None, out, err
    return process.returncode, out, err


def ending(code: int, err: str) -> str:
    """`killed by SIGSEGV`, else the last line that was written."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line for line in err.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {code}"
