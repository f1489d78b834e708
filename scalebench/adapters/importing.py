"""Running code of the user's: what goes wrong in it is told in one sentence, with its traceback in a file."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from scalebench.adapters import is_file
from scalebench.errors import UserError


def load_module(place: str) -> ModuleType:
    """The user's module: a file's, or one by its dotted name, from the current folder too. Raises UserError."""
    search_here()
    with told(place):
        return _load_file(Path(place)) if is_file(place) else importlib.import_module(place)


def _load_file(path: Path) -> ModuleType:
    """Import `path` as Python would run it: its folder comes first on the module search path."""
    name = f"own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise UserError(f"'{path}' is no Python file. Give path/to/file.py:factory.")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def search_here() -> None:
    """From now on modules of the current folder are found, as by `python -m`."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """What the user's code raises inside becomes a UserError that begins with `what`; what it prints is no result."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} {_said(what, error)}.{_kept_traceback()}") from error


def _said(what: str, error: BaseException) -> str:
    """What happened, and where in the user's code."""
    if isinstance(error, SyntaxError):
        return f"is no valid Python: {error.msg} ({error.filename}, line {error.lineno})"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if f"{what}.".startswith(f"{error.name}."):
            return f"is not there: no module '{error.name}' is installed, or lies in the current folder"
        return f"needs the package '{package}', which is not installed: pip install {package}"
    said = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".: ")
    return f"raises {said}{_place(error)}{_instead_of_a_trainer(error)}"


def _instead_of_a_trainer(error: BaseException) -> str:
    """What to do where a LightningModule asks for its Trainer."""
    asks = "attached to a `Trainer`" in str(error)
    return ", and there is none here: do without, or record a Trainer's run by scalebench.lightning_callback" * asks


def _place(error: BaseException) -> str:
    """The innermost place that is neither ours nor an installed package's."""
    ours = str(Path(__file__).parents[2])
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if "site-packages" not in frame.filename
        and not frame.filename.startswith((f"{ours}/scalebench", f"{ours}/strategies", sys.prefix, "<"))
        and not frame.filename.startswith(os.path.dirname(os.__file__))
    ]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _kept_traceback() -> str:
    """Where the traceback is; a rank's log has it anyway."""
    if "RANK" in os.environ:
        return ""
    with tempfile.NamedTemporaryFile("w", prefix="scalebench-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return f" The traceback is in {file.name}."
