"""The suite on a real GPU, in parts that can be called one by one: see docs/gpu.md.

    python -m tests.gpu --part A
    python -m tests.gpu --verdicts gpu-results

Only the standard library is imported here: what is missing may have to be installed first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PART_SECONDS = 480.0
INSTALLED = "SCALEBENCH_TESTS_WHEELS"
"""Names, in the process that has them, the wheels that were installed."""


def main() -> int:
    """Install what was asked, then do it; returns the exit code."""
    given = parsed()
    if given.wheels and os.environ.get(INSTALLED) != str(given.wheels):
        return with_wheels(given.wheels)
    try:
        return carried_out(given)
    except ModuleNotFoundError as error:
        sys.exit(f"the package {error.name} is missing: install it, or give its wheel (--wheels DIR, see docs/gpu.md)")


def carried_out(given: argparse.Namespace) -> int:
    """What was asked, with every package at hand."""
    if given.verdicts:
        from tests.gpu.verdicts import show

        return show(given.verdicts)
    from tests.gpu.part import carry_out

    return carry_out(given.part, given.out, stand_in=given.stand_in, seconds=given.seconds, nanogpt=given.nanogpt)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=(__doc__ or "").splitlines()[0])
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--part", choices=["A", "B", "C"], help="what to measure")
    wanted.add_argument("--verdicts", type=Path, metavar="DIR", help="say of what was measured which targets it meets")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), metavar="DIR", help="where it goes")
    parser.add_argument("--seconds", type=float, default=PART_SECONDS, help="the part's budget (default: %(default)s)")
    parser.add_argument("--stand-in", action="store_true", help="a few tiny cells on the CPU: does the script work?")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="packages to use beside those at hand")
    parser.add_argument("--nanogpt", type=Path, metavar="MODEL.py", help="nanoGPT's model.py, to measure beside ours")
    return parser.parse_args()


def with_wheels(folder: Path) -> int:
    """This command again, in an interpreter that also has the wheels of `folder`; nothing of its own is changed."""
    wheels = sorted(map(str, folder.glob("*.whl")))
    if not wheels:
        sys.exit(f"there is no wheel in {folder}: see docs/gpu.md for those that may be needed")
    with tempfile.TemporaryDirectory(prefix="scalebench-wheels-") as site:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
        subprocess.run([*pip, "--target", site, *wheels], check=True)
        paths = os.pathsep.join(filter(None, [os.getcwd(), site, os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": paths, INSTALLED: str(folder)}
        return subprocess.run([sys.executable, "-m", "tests.gpu", *sys.argv[1:]], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
