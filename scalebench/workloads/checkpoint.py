"""Start values from a checkpoint instead of the seed, for any workload under any strategy.

Strategies ask a workload for the start value of each parameter; one that is started from a checkpoint answers from the
file, which is mapped into memory: no rank holds more of it than it asks for. Nothing in a file is ever run.
"""

from __future__ import annotations

import copy
import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalebench.adapters.root import unwrapped
from scalebench.errors import UserError, with_article
from scalebench.strategies.construct import named_state
from scalebench.workloads.base import Workload
from scalebench.workloads.checkpoint_name import split_name

WRAPPED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP1 and checkpointing put between the parts of a name."""
SHOWN = 3
"""Names that a sentence gives of each kind of mismatch."""


def started(workload: Workload, init_from: str | None) -> Workload:
    """`workload` with the start values of the checkpoint that a spec names, if it names one.

    Raises UserError when the file cannot be read without running code, or does not hold exactly this model.
    """
    if init_from is None:
        return workload
    values = matching_state(workload, init_from)

    def init_parameter_(name: str, tensor: Tensor, generator: torch.Generator) -> None:
        if name in values:
            tensor.copy_(values[name])
        else:  # of a loss that lies beside the model
            workload.init_parameter_(name, tensor, generator)

    same = copy.copy(workload)
    vars(same)["init_parameter_"] = init_parameter_  # the instance's own comes before its class's
    return same


def matching_state(workload: Workload, init_from: str) -> dict[str, Tensor]:
    """Every parameter and buffer of `workload` as the checkpoint `init_from` (PATH or PATH@PREFIX) has it, by name.

    Containers such as Lightning's `state_dict` and prefixes such as `model.` are looked through. What else the file
    holds, outside of the model's own modules, is left alone. Raises UserError as `started`.
    """
    path, asked = split_name(init_from)
    found = {_plain(name): value for name, value in _flattened(_read(path))}
    with torch.device("meta"):
        wrapper, module = unwrapped(workload.build())
    wanted = {name: value.shape for name, value in named_state(module)}
    prefix = _chosen(path, found, set(wanted), asked)
    state = {name[len(prefix) :]: value for name, value in found.items() if name.startswith(prefix)}
    wrong = list(_mismatches(state, wanted, module))
    if wrong:
        raise UserError(
            f"the checkpoint {path} is not of {workload.name} {workload.size} as asked: {'; '.join(wrong)}. "
            "Give the --size and the --set workload.* that it was trained with."
        )
    return {wrapper + name: state[name] for name in wanted}


def _read(path: Path) -> Mapping[Any, Any]:
    """What a file holds, tensors mapped into memory."""
    read = _safetensors_reader(path) if path.suffix == ".safetensors" else _load_weights
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats
            held = read(path)
    except pickle.UnpicklingError as error:
        raise UserError(_refused(path)) from error
    except Exception as error:  # torch, pickle and zip readers raise what they like of damaged files
        raise UserError(f"{_no_checkpoint(path)}.") from error
    if not isinstance(held, Mapping):
        raise UserError(f"the checkpoint {path} holds {with_article(type(held).__name__)} rather than named tensors.")
    return held


def _load_weights(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _safetensors_reader(path: Path) -> Callable[[Path], Any]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(
            f"{path} needs safetensors, which is missing. Type: pip install 'scalebench-suite[checkpoints]'"
        ) from None
    return load_file


def _refused(path: Path) -> str:
    """Why torch's weights-only reader did not take a file."""
    try:
        code = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of a file that is no archive of torch's: then there is nothing more to be said
        code = []
    if not code:
        return f"{_no_checkpoint(path)}."
    return (
        f"the checkpoint {path} holds code ({', '.join(code[:SHOWN])}), which could do anything and is never run. "
        "Where you trust it, store its tensors alone: "
        "torch.save(torch.load(PATH, weights_only=False)['state_dict'], NEW)."
    )


def _no_checkpoint(path: Path) -> str:
    return f"{path} is no checkpoint that torch can read, or is damaged"


def _flattened(held: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested dicts, by the keys on the way, joined by dots."""
    for key, value in held.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")


def _plain(name: str) -> str:
    for wrapped in WRAPPED:
        name = name.replace(wrapped, "")
    return name


def _chosen(path: Path, found: Mapping[str, Tensor], wanted: set[str], asked: str | None) -> str:
    """What stands before the model's names in the file: as asked, else what fits best, which must be one."""
    counts = Counter(prefix for name in found for prefix in _prefixes(name, wanted))
    if not counts:
        names = f"; it begins with {next(iter(found))}" if found else ""
        raise UserError(f"the checkpoint {path} holds no parameter of this model{names}. Give another file or --size.")
    if asked is not None:
        common = [prefix for prefix, _ in counts.most_common(SHOWN)]
        matching = [prefix for prefix in counts if prefix.rstrip(".") == asked.rstrip(".")]
        if not matching:
            raise UserError(f"the checkpoint {path} has no model under '{asked}', but under {_listed(common)}.")
        return matching[0]
    whole = [prefix for prefix, count in counts.items() if count == len(wanted)]
    if len(whole) > 1:
        example = whole[-1].rstrip(".")
        raise UserError(
            f"the checkpoint {path} holds the model several times, under {_listed(whole)}. "
            f"Say which: --init-from '{path}@{example}'."
        )
    return counts.most_common(1)[0][0]


def _prefixes(name: str, wanted: set[str]) -> Iterator[str]:
    """What stands before each of the `wanted` names that `name` ends in."""
    start = 0
    while start >= 0:
        if name[start:] in wanted:
            yield name[:start]
        start = name.find(".", start) + 1 or -1


def _listed(prefixes: Iterable[str]) -> str:
    return " and ".join(f"'{prefix.rstrip('.')}'" for prefix in prefixes)


def _mismatches(state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], module: nn.Module) -> Iterator[str]:
    """One clause for each kind of difference between a state and the model's."""
    known, own = set(module.state_dict()), {name for name, _ in module.named_children()}
    kinds = {
        "missing": [name for name in wanted if name not in state],
        "unexpected": [name for name in state if name not in known and name.partition(".")[0] in own],
        "of another shape": [
            f"{name} is {_sides(state[name].shape)}, not {_sides(shape)}"
            for name, shape in wanted.items()
            if name in state and state[name].shape != shape
        ],
    }
    for kind, names in kinds.items():
        if names:
            more = ", ..." if len(names) > SHOWN else ""
            yield f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{more})"


def _sides(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "a number"
