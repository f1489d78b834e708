"""Experiments: the cells that answer one question together, whatever their strategy, ranks and precision."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from scalebench.analysis.cells import (
    BATCH_FIELDS,
    NOT_A_SETTING,
    PRECISION_FIELDS,
    STRATEGY_FIELDS,
    Cell,
    cells,
    machine,
)
from scalebench.analysis.parity import failed_parity
from scalebench.records.record import Record
from scalebench.spec import DeviceType, RunSpec
from scalebench.strategies import BUILTIN
from scalebench.strategies.config import PRECISIONS

FREE_FIELDS = STRATEGY_FIELDS | PRECISION_FIELDS | BATCH_FIELDS | {"world_size"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """Cells of one workload, data, machine, batch and way of scaling, in the order tables show them.

    Attributes:
        title: what it is, unique within a report.
        slug: the title's first part for file names, unique within a report.
        names: each cell's strategy, with the options that tell it from another cell of the same strategy.
        untrue: the cells whose strategy failed its parity check: it trained another model, so nothing may be said for
            it.
        matched: cells are compared at equal micro-batches; False: whatever their micro-batches.
    """

    title: str
    slug: str
    cells: list[Cell]
    names: dict[Cell, str]
    untrue: frozenset[Cell]
    matched: bool = True

    @property
    def unit(self) -> str:
        """What a rank is: `GPU` or `process`."""
        return rank_word(self.cells[0].spec)

    @property
    def measured(self) -> list[Cell]:
        """The cells with figures."""
        return [cell for cell in self.cells if cell.measured]

    def groups(self) -> list[list[Cell]]:
        """The cells of one number of ranks and one precision, which a choice of strategy is made among.

        Where micro-batches differ, those of one that several strategies share: of the others each was measured for
        itself.
        """
        groups = grouped(self.cells, lambda cell: (cell.spec.world_size, cell.precision))
        return [alike for group in groups for alike in (self._matched(group) if self.matched else [group])]

    def _matched(self, group: Sequence[Cell]) -> list[list[Cell]]:
        alike = grouped(group, lambda cell: (cell.spec.micro_batch, cell.spec.accumulation))
        return [cells for cells in alike if len(cells) > 1] or alike


def experiments(records: Iterable[Record]) -> list[Experiment]:
    """Every experiment among `records`, in the order they first ran."""
    ran = list(records)
    checks = [record for record in ran if record.kind == "parity"]
    found: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells(ran):
        found.setdefault((cell.setting(FREE_FIELDS), _batch(cell.spec)), []).append(cell)
    groups = [sorted(members, key=place_of) for members in found.values()]
    slugs = _numbered([_slug(members[0].spec) for members in groups])
    return [
        Experiment(
            title=title,
            slug=slug,
            cells=members,
            names=_names(members),
            untrue=frozenset(cell for cell in members if failed_parity(cell, checks)),
        )
        for title, slug, members in zip(titles(groups, _title), slugs, groups, strict=True)
    ]


def grouped(members: Iterable[Cell], key: Callable[[Cell], object]) -> list[list[Cell]]:
    """`members` of equal `key` together, in the order they come."""
    found: dict[object, list[Cell]] = {}
    for cell in members:
        found.setdefault(key(cell), []).append(cell)
    return list(found.values())


def rank_word(spec: RunSpec) -> str:
    """What a rank of `spec` is: `GPU` or `process`."""
    return "GPU" if spec.device == "cuda" else "process"


def hardware(cell: Cell) -> str:
    """The hardware that the cell's ranks ran on."""
    record = (cell.measured or list(cell.records))[0]
    return hardware_name(cell.spec.device, [rank.device_name for rank in record.ranks], record.environment)


def hardware_name(device: DeviceType, gpus: Iterable[str | None], environment: Mapping[str, object]) -> str:
    """The GPUs by their names, or the CPU and its cores."""
    if device == "cuda":
        return " and ".join(dict.fromkeys(name for name in gpus if name)) or "GPU of unknown name"
    model, cores = environment.get("cpu_model"), environment.get("cores")
    return str(model or "CPU of unknown model") + (f", {cores} cores" if cores else "")


def strategy_order(name: str) -> tuple[int, str]:
    """Our strategies in the order they are declared, then others by name."""
    known = list(BUILTIN)
    return (known.index(name) if name in known else len(known), name)


def _batch(spec: RunSpec) -> tuple[int, ...]:
    """What the series holds constant."""
    return (spec.global_batch,) if spec.scaling == "strong" else (spec.micro_batch, spec.accumulation)


def place_of(cell: Cell) -> tuple[object, ...]:
    """Where a cell stands in tables."""
    spec = cell.spec
    precision = (PRECISIONS.index(spec.precision), spec.tf32)
    return (
        spec.world_size,
        precision,
        strategy_order(spec.strategy),
        json.dumps(spec.strategy_options, sort_keys=True),
        spec.cell_id,
    )


def _title(members: Sequence[Cell]) -> str:
    spec = members[0].spec
    return title_with(spec, _batch_title(spec), "activation checkpointing" if spec.activation_checkpointing else "")


def _batch_title(spec: RunSpec) -> str:
    if spec.scaling == "strong":
        return f"global batch {spec.global_batch}"
    steps = f" × {spec.accumulation} accumulated" if spec.accumulation > 1 else ""
    return f"micro-batch {spec.micro_batch}{steps} per {rank_word(spec)}"


SWITCHES = {
    "deterministic": "deterministic",
    "detect_anomaly": "anomaly detection",
    "cudnn_benchmark": "cuDNN autotuning",
}
"""Fields of a spec that are said in a title where they are on."""


def title_with(spec: RunSpec, batch: str, last: str) -> str:
    """What the cells of an experiment share, `batch` and `last` being what is to be said of their batch and else."""
    parts = [
        f"{spec.model_name} on {spec.device.upper()}",
        f"{spec.scaling} scaling",
        batch,
        "backend-default profile" if spec.profile != "matched" else "",
        "compiled" if spec.compile else "",
        *(word for name, word in SWITCHES.items() if getattr(spec, name)),
        last,
    ]
    return ", ".join(filter(None, parts))


def _slug(spec: RunSpec) -> str:
    return f"{spec.model_name.replace(' ', '-')}-{spec.device}-{spec.scaling}"


def titles(groups: Sequence[Sequence[Cell]], titled: Callable[[Sequence[Cell]], str]) -> list[str]:
    """A unique title per experiment: the settings in which experiments `titled` alike differ are added to it."""
    short = [titled(members) for members in groups]
    alike = [[_settings(other[0]) for other, t in zip(groups, short, strict=True) if t == title] for title in short]
    return _numbered(
        [
            title + _distinctions(_settings(members[0]), others)
            for title, members, others in zip(short, groups, alike, strict=True)
        ]
    )


def _distinctions(own: dict[str, str], others: Sequence[dict[str, str]]) -> str:
    differing = [name for name in own if any(other.get(name) != own[name] for other in others)]
    return "".join(f", {name.replace('_', ' ')} {own[name].replace('None', 'not set')}" for name in differing)


def _settings(cell: Cell) -> dict[str, str]:
    """Everything by which two experiments can differ, one text each."""
    spec = cell.spec.model_dump(mode="json", exclude={*FREE_FIELDS, *NOT_A_SETTING})
    nested = spec.pop("optimizer") | spec.pop("workload_options")
    facts = {**spec, **nested, **machine(cell.records[0]), "data_sha256": (cell.data_sha256 or "")[:12]}
    return {name: str(value) for name, value in facts.items()}


def _numbered(names: list[str]) -> list[str]:
    """`names`, each repetition of one numbered from 2."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return numbered


def _names(members: Sequence[Cell]) -> dict[Cell, str]:
    """A name per cell that is unique within its ranks and precision; as short as that allows."""
    return {
        cell: _name(cell, [other for other in members if other is not cell and _rivals(cell, other)])
        for cell in members
    }


def _rivals(a: Cell, b: Cell) -> bool:
    keys = [(c.spec.strategy, c.spec.world_size, c.precision) for c in (a, b)]
    return keys[0] == keys[1]


def _name(cell: Cell, rivals: Sequence[Cell]) -> str:
    fields = [
        field
        for field in ("grad_sync", "micro_batch", "accumulation")
        if any(getattr(other.spec, field) != getattr(cell.spec, field) for other in rivals)
    ]
    return spec_name(cell.spec, fields)


def spec_name(spec: RunSpec, fields: Iterable[str] = ()) -> str:
    """The strategy with its options and `fields`: `fsdp (prefetch=2, micro_batch=8)`."""
    options = [f"{key}={_option_text(value)}" for key, value in sorted(spec.strategy_options.items())]
    told = [*options, *(f"{field}={getattr(spec, field)}" for field in fields)]
    return spec.strategy + (f" ({', '.join(told)})" if told else "")


def _option_text(value: object) -> str:
    """A short value as it is; a long one (a whole DeepSpeed configuration) as a hash that tells it from others."""
    if isinstance(value, (bool, int, float)) or value is None:
        return str(value)
    text = json.dumps(value, sort_keys=True)
    return str(value) if len(text) <= 20 else hashlib.sha256(text.encode()).hexdigest()[:6]
