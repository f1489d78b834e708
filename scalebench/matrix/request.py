"""Request: what a person asked for, from flags and configuration files, checked value by value but not yet resolved.

Every field is a flag of `scalebench run` and a key of its configuration file, and None where nothing was asked. Its
description is the flag's help, its title the flag's metavar. Values are a flag's text or a file's own types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from scalebench import adapters, strategies, workloads
from scalebench.errors import UserError, unknown_name
from scalebench.spec import Scaling
from scalebench.strategies.config import PRECISION_ALIASES, PRECISIONS, GradSync, OptimizerName, Precision, Profile

DeviceChoice = Literal["auto", "cpu", "cuda"]
StartMethod = Literal["forkserver", "spawn"]
Batch = Literal["matched", "best"]
AUTO, MAX = "auto", "max"
"""Words for a micro-batch and a size that are to be searched."""
Ending = Literal["failed", "timeout", "oom", "unsupported"]
"""Ways in which a run can come to an end without figures, though nobody stopped it."""
LARGEST = 2**53
"""Numbers stay below this, so that they survive JSON readers that hold them as doubles."""


class RequestError(UserError):
    """A UserError about one value of a Request; `key` is where it stands, e.g. `("set", "strategy", "bucket_mb")`."""

    def __init__(self, key: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.key = key


def read_whole(value: object, least: int = 1) -> int:
    """An int, or its decimal digits, of at least `least`. Raises ValueError, as every reader here."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,17}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < LARGEST:
        raise ValueError(f"expected a whole number of at least {least}")
    return value


def read_from_zero(value: object) -> int:
    """A whole number, zero included."""
    return read_whole(value, least=0)


def read_ranks(value: object) -> int | str:
    """A number of ranks, `all` or `doubling`."""
    if value in ("all", "doubling"):
        return str(value)
    try:
        return read_whole(value)
    except ValueError as error:
        raise ValueError(f"{error}, or all, or doubling") from None


def read_positive(value: object) -> float:
    """A finite number above zero, or its text."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]{1,3})?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < LARGEST:
        raise ValueError("expected a number above 0")
    return float(value)


BYTES_PER_UNIT = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for suffix, base in (("iB", 1024), ("B", 1000))
    for power, letter in enumerate(("K", "M", "G", "T"), 1)
}


def read_bytes(value: object) -> int:
    """Bytes: a whole number, or a number with a unit such as `512MiB` or `24GB`."""
    found = re.fullmatch(r"([0-9]{1,15}(?:[.][0-9]{1,6})?) *([KMGT]?i?B|)", value) if isinstance(value, str) else None
    if found and found[2] in BYTES_PER_UNIT:
        value = int(float(found[1]) * BYTES_PER_UNIT[found[2]])
    try:
        return read_whole(value)
    except ValueError:
        raise ValueError("expected bytes, such as 512MiB, 24GB or a whole number") from None


def read_micro_batch(value: object) -> int | str:
    """A whole number, or `auto`."""
    try:
        return AUTO if value == AUTO else read_whole(value)
    except ValueError as error:
        raise ValueError(f"{error}, or {AUTO}") from None


def read_share(value: object) -> float:
    """A number between 0 and 1, or a percentage such as `2%`."""
    try:
        percentage = isinstance(value, str) and value.endswith("%")
        share = read_positive(str(value)[:-1]) / 100 if percentage else read_positive(value)
    except ValueError:
        share = 1.0
    if share >= 1:
        raise ValueError("expected a share between 0 and 1, or a percentage such as 2%")
    return share


def read_clip(value: object) -> float | str:
    """A positive number, or `none`."""
    try:
        return "none" if value == "none" else read_positive(value)
    except ValueError as error:
        raise ValueError(f"{error}, or none") from None


def read_decay(value: object) -> float | str:
    """A number between 0 and 1, or `none`."""
    try:
        return "none" if value == "none" else read_share(value)
    except ValueError:
        raise ValueError("expected a number between 0 and 1, or none") from None


def read_truth(value: object) -> bool:
    """True or False, nothing that merely looks like one."""
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def read_text(value: object) -> str:
    """Text that is not empty and can be a path."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("expected text")
    return value


def read_list(value: object) -> tuple[object, ...]:
    """The items of comma-separated text or of a list, in order."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    stripped = tuple(item.strip() if isinstance(item, str) else item for item in items)
    if not stripped or "" in stripped:
        raise ValueError("expected one value, or several separated by commas")
    return stripped


def read_unsplit(value: object) -> tuple[object, ...]:
    """The items of a list, or one value: a path may hold commas."""
    return read_list(value if isinstance(value, list | tuple) else [value])


def word(kind: str, allowed: Callable[[], Iterable[str]], aliases: Mapping[str, str] | None = None) -> BeforeValidator:
    """A reader of one of the `allowed` names, or of an alias of one."""

    return BeforeValidator(lambda value: name_of(value, kind, allowed(), aliases or {}))


def name_of(value: object, kind: str, allowed: Iterable[str], aliases: Mapping[str, str] = MappingProxyType({})) -> str:
    """`value`, or what it is an alias of, as one of the `allowed` names."""
    given = str(value).encode("utf-8", "backslashreplace").decode()  # an argument need not be UTF-8
    name, names = aliases.get(given, given), list(allowed)
    if isinstance(value, bool) or name not in names:
        raise ValueError(str(unknown_name(kind, given, names)))
    return name


def read_workload(value: object) -> object:
    """The name of a workload, or of a user's own factory with its file's whole path."""
    if not (isinstance(value, str) and adapters.is_own(value)):
        return name_of(value, "workload", workloads.FAMILIES)
    try:
        return adapters.resolve_name(value)
    except UserError as error:
        raise ValueError(str(error)) from None


def choice(kind: str, literal: Any) -> BeforeValidator:
    """A reader of one of the values of a Literal type."""
    return word(kind, lambda: get_args(literal))


def read_tables(value: object) -> list[object]:
    """A list of tables, as `[[run.exclude]]` makes one in TOML."""
    if not isinstance(value, list | tuple):
        raise ValueError("expected tables, each headed by double brackets, e.g. [[run.exclude]]")
    return list(value)


Truth = Annotated[bool, BeforeValidator(read_truth)]
Text = Annotated[str, BeforeValidator(read_text)]
Count = Annotated[int, BeforeValidator(read_whole)]
FromZero = Annotated[int, BeforeValidator(read_from_zero)]
Share = Annotated[float, BeforeValidator(read_share)]
Positive = Annotated[float, BeforeValidator(read_positive)]
Clip = Annotated[float | str, BeforeValidator(read_clip)]
Decay = Annotated[float | str, BeforeValidator(read_decay)]
Several = BeforeValidator(read_list)
Limits = Annotated[tuple[Annotated[int, BeforeValidator(read_bytes)], ...], Several]
MicroBatches = Annotated[tuple[Annotated[int | str, BeforeValidator(read_micro_batch)], ...], Several]
Ranks = Annotated[tuple[Annotated[int | str, BeforeValidator(read_ranks)], ...], Several]
Strategies = Annotated[tuple[Annotated[str, word("strategy", strategies.entries)], ...], Several]
Workloads = Annotated[tuple[Annotated[str, BeforeValidator(read_workload)], ...], Several]
Precisions = Annotated[
    tuple[Annotated[Precision, word("precision", lambda: PRECISIONS, PRECISION_ALIASES)], ...], Several
]
Scalings = Annotated[tuple[Annotated[Scaling, choice("scaling", Scaling)], ...], Several]
Optimizers = Annotated[tuple[Annotated[OptimizerName, choice("optimizer", OptimizerName)], ...], Several]
Profiles = Annotated[tuple[Annotated[Profile, choice("profile", Profile)], ...], Several]
GradSyncs = Annotated[tuple[Annotated[GradSync, choice("grad sync", GradSync)], ...], Several]
Endings = Annotated[tuple[Annotated[Ending, choice("ending", Ending)], ...], Several]
Truths = Annotated[tuple[Truth, ...], Several]
Texts = Annotated[tuple[Text, ...], Several]
Paths = Annotated[tuple[Text, ...], BeforeValidator(read_unsplit)]
Counts = Annotated[tuple[Count, ...], Several]
FromZeros = Annotated[tuple[FromZero, ...], Several]
Shares = Annotated[tuple[Share, ...], Several]
Positives = Annotated[tuple[Positive, ...], Several]
Clips = Annotated[tuple[Clip, ...], Several]
Decays = Annotated[tuple[Decay, ...], Several]


def _ask(help_text: str, metavar: str | None = None) -> Any:
    return Field(default=None, description=help_text, title=metavar)


class Axes(BaseModel):
    """What cells can differ in: each field holds one value or several, each option of `set` one or a list of several.

    Of several, every combination is a cell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategies | None = _ask("Strategies to measure, named by `scalebench list`.", "NAME,...")
    gpus: Ranks | None = _ask(
        "Numbers of ranks: GPUs, or CPU processes where there is no GPU; `all` is every GPU or core, "
        "`doubling` 1, 2, 4 ... all GPUs, or 1, 2 processes. Default: all GPUs, or 2 processes.",
        "N,...|all|doubling",
    )
    precision: Precisions | None = _ask(
        "Precisions, explained by `scalebench list precisions`. Default: bf16 where native, else fp32.", "NAME,..."
    )
    tf32: Truths | None = _ask("Let fp32 matrix products on CUDA use TF32. Default: no.")
    workload: Workloads | None = _ask(
        "Models, named by `scalebench list workloads`, or your own, `file.py:factory`. Default: gpt.", "NAME,..."
    )
    size: Texts | None = _ask(
        "Sizes of the model; `max` searches the largest that each strategy can train here. "
        "Default: tiny on a CPU, on a GPU a published one (gpt: 124m).",
        "NAME,...|max",
    )
    data: Paths | None = _ask(
        "A path (of text for gpt), `stdlib` (Python's own sources, gpt's default), images:DIR, pairs:DIR, arrays:PATH, "
        "`digits` or `synthetic`, of which a workload reads some; see docs/data.md.",
        "PATH",
    )
    init_from: Paths | None = _ask(
        "A checkpoint to start from (.ckpt, .pt, .safetensors), weights only; PATH@PREFIX where it holds the model "
        "several times, or `none`. Default: values from the seed.",
        "PATH",
    )
    num_workers: FromZeros | None = _ask("Processes per rank that load data ahead. Default: 0, none.", "N,...")
    scaling: Scalings | None = _ask(
        "weak keeps the micro-batch of a rank, strong the global batch. Default: weak, or strong with --global-batch.",
        "weak|strong,...",
    )
    micro_batch: MicroBatches | None = _ask(
        "Samples per rank and forward pass; `auto` searches the largest that fits and the fastest. "
        "Default: the size's own.",
        "N,...|auto",
    )
    accumulation: Counts | None = _ask("Micro-batches per rank and optimizer step. Default: 1.", "N,...")
    global_batch: Counts | None = _ask("Samples per optimizer step over all ranks, for strong scaling.", "N,...")
    memory_limit: Limits | None = _ask(
        "What each rank may allocate, e.g. 2GiB; imposed, so that more is out of memory. Default: all there is.",
        "BYTES,...",
    )
    steps: Counts | None = _ask("Timed optimizer steps of each run, exactly. Default: as many as precision takes.", "N")
    warmup_steps: Counts | None = _ask("Optimizer steps before them, exactly. Default: until they are steady.", "N")
    target_precision: Shares | None = _ask(
        "Time steps until the 95% interval of their median is within this share of it. Default: 2%.", "X|X%"
    )
    max_seconds: Positives | None = _ask(
        "Longest that each run steps, the first step excepted, where no numbers of steps say so. Default: 20.",
        "SECONDS",
    )
    compile: Truths | None = _ask("torch.compile the model's regions. Default: no.")
    deterministic: Truths | None = _ask("Compute the same bits in every run, or say what cannot. Default: no.")
    detect_anomaly: Truths | None = _ask("End at the first nan in a backward pass, and name its operation; slow.")
    cudnn_benchmark: Truths | None = _ask("Let cuDNN try its algorithms for each shape of convolutions. Default: no.")
    activation_checkpointing: Truths | None = _ask("Recompute each block in the backward pass. Default: no.")
    clip_norm: Clips | None = _ask("Global gradient norm to clip to, or `none`. Default: 1.0.", "X|none,...")
    optimizer: Optimizers | None = _ask("The one optimizer of all strategies. Default: adamw.", "adamw|sgd,...")
    learning_rate: Positives | None = _ask("Its learning rate. Default: 0.0003.", "X,...")
    ema_decay: Decays | None = _ask(
        "Decay of a moving average of the parameters, kept by every step, or `none`. Default: none.", "X|none,..."
    )
    profile: Profiles | None = _ask(
        "matched makes backends as alike as they allow; backend-default leaves each as shipped. Default: matched.",
        "matched|backend-default,...",
    )
    grad_sync: GradSyncs | None = _ask(
        "Micro-batches on which ranks reduce gradients. Default: last for ddp and ZeRO 0-1, every_micro_batch else.",
        "last|every_micro_batch,...",
    )
    set: dict[Literal["strategy", "workload"], dict[str, Any]] | None = None

    def over(self, below: Request) -> Request:
        """`below` with what is said here instead; of options, one by one."""
        said = {name: value for name in Axes.model_fields if (value := getattr(self, name)) is not None}
        if below.set and self.set:
            said["set"] = merged_options(below.set, self.set)
        return below.model_copy(update=said)


class Override(Axes):
    """Values that cells have instead of their own, where they are what `where` says."""

    where: Axes


Selections = Annotated[tuple[Axes, ...], BeforeValidator(read_tables)]
Overrides = Annotated[tuple[Override, ...], BeforeValidator(read_tables)]


class Request(Axes):
    """What was asked; `scalebench.matrix.resolve` says what the Nones become.

    Attributes:
        override: values that some cells have instead; one after the other, each sees what those before it made.
        exclude: cells that match any of these are left out.
        include: more cells, which exclusions do not touch: what each says, the rest as for all.
    """

    device: Annotated[DeviceChoice, choice("device", DeviceChoice)] | None = _ask(
        "Where to run. Default: auto, a GPU where one is visible.", "auto|cuda|cpu"
    )
    batch: Annotated[Batch, choice("batch", Batch)] | None = _ask(
        "best also measures each strategy at its own fastest micro-batch and checkpointing for the global batch. "
        "Default: matched, the same for all.",
        "matched|best",
    )
    repeats: Count | None = _ask("Fresh processes per cell; ranking needs several. Default: 3.", "N")
    seed: FromZero | None = _ask("Seed of parameters, data and the order of runs. Default: 0.", "N")
    override: Overrides | None = None
    exclude: Selections | None = None
    include: Selections | None = None
    deepspeed_config: dict[str, Any] | None = None
    baseline: Truth | None = _ask("Add `single` at one rank, which efficiency is measured against. Default: yes.")
    loader_rates: Truth | None = _ask(
        "Measure the loader alone at 0, 1, 2 and 4 workers in every run. Default: only where steps wait for data."
    )
    parity: Truth | None = _ask("Check each cell against `single` on the same micro-batches first. Default: no.")
    diagnostics: Truth | None = _ask(
        "After the timed steps look at what ran: contract, phases, memory by category, communication. Default: yes."
    )
    timeout: Positive | None = _ask(
        "How long a run may stand still, no step ending on any rank, before it is given up. Default: 600.", "SECONDS"
    )
    start_method: Annotated[StartMethod, choice("start method", StartMethod)] | None = _ask(
        "How ranks start; spawn is slower and depends on less. Default: forkserver.", "forkserver|spawn"
    )
    resume: Truth | None = _ask(
        "Skip what the results folder already has of the plan. Default: yes with --config, else all is measured anew."
    )
    retry: Endings | None = _ask(
        "Of what it has, run again what ended so: failed, timeout, oom, unsupported.", "ENDING,..."
    )
    force: Truth | None = _ask("Run also cells that ran out of memory with a smaller micro-batch. Default: no.")
    results: Text | None = _ask("Folder that records go to. Default: results.", "DIR")
    debug: Truth | None = _ask("NCCL and torch debug output and a log per rank; not comparable. Default: no.")


def merged_options(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> dict[Any, Any]:
    """Options by section, those of `above` before those of `below`."""
    both = {
        section: {**values, **above.get(section, {})} if isinstance(values, dict) else values
        for section, values in below.items()
    }
    return {**above, **both}
