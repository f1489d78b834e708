"""Matrices: lists multiplied out, cells left out, added and changed, and where a mistake in them stands."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalebench.cli.asking import read_asked, read_assignments
from scalebench.errors import UserError
from scalebench.machine import Machine
from scalebench.matrix import Request, RequestError, resolve
from scalebench.spec import RunSpec

CPU = Machine(device="cpu", gpu_count=0, cores=2, bf16_native=False)
GPUS = Machine(device="cuda", gpu_count=8, cores=64, bf16_native=True)


def cells(machine: Machine = CPU, **asked: Any) -> list[RunSpec]:
    return resolve(Request(**({"strategy": "ddp", "gpus": 1, "baseline": False} | asked)), machine)


AXES: dict[str, list[Any]] = {
    "strategy": ["ddp", "fsdp", "deepspeed_stage_2"],
    "gpus": [1, 2],
    "precision": ["fp32", "bf16", "fp16"],
    "size": ["tiny", "124m"],
    "data": ["stdlib", "synthetic"],
    "num_workers": [0, 2],
    "scaling": ["weak", "strong"],
    "micro_batch": [2, 4],
    "accumulation": [1, 2],
    "steps": [5, 6],
    "warmup_steps": [1, 2],
    "compile": [True, False],
    "activation_checkpointing": [False, True],
    "clip_norm": ["none", 0.5, 1.0],
    "ema_decay": ["none", 0.99],
    "optimizer": ["adamw", "sgd"],
    "learning_rate": [1e-3, 1e-4],
    "profile": ["matched", "backend-default"],
    "grad_sync": ["last", "every_micro_batch"],
}


def said(spec: RunSpec, name: str) -> object:
    """The value of a cell as it is asked for."""
    values: dict[str, object] = {"gpus": spec.world_size, "data": spec.data.removeprefix("text:")}
    values |= {"optimizer": spec.optimizer.name, "learning_rate": spec.optimizer.learning_rate}
    values |= {"clip_norm": "none" if spec.clip_norm is None else spec.clip_norm}
    values |= {"ema_decay": "none" if spec.ema_decay is None else spec.ema_decay}
    return values[name] if name in values else getattr(spec, name)


INDEPENDENT = sorted({*AXES} - {"scaling", "micro_batch", "accumulation"})
"""Those that no other axis bears on; strong scaling makes a batch of the others."""


@given(names=st.lists(st.sampled_from(INDEPENDENT), min_size=1, max_size=4, unique=True))
@settings(max_examples=60)
def test_every_combination_is_a_cell_once(names: list[str]) -> None:
    found = cells(**{name: AXES[name] for name in names})
    assert Counter(tuple(said(spec, name) for name in names) for spec in found) == Counter(
        itertools.product(*(AXES[name] for name in names))
    )


def test_batches_and_scalings_are_multiplied_too() -> None:
    found = cells(gpus="1,2", scaling="weak,strong", micro_batch=[2, 4], accumulation=[1, 3])
    weak = [s for s in found if s.scaling == "weak"]
    assert len(weak) == 2 * 2 * 2
    assert {(s.micro_batch, s.accumulation) for s in weak} == set(itertools.product((2, 4), (1, 3)))
    assert {s.global_batch for s in found if s.scaling == "strong"} == {4, 8, 12, 24}


def test_options_are_axes_too_for_those_that_have_them() -> None:
    asked = {"workload": {"context_length": [32, 64]}, "strategy": {"reshard_after_forward": [True, False]}}
    found = cells(strategy="ddp,fsdp", set=asked)
    assert sorted((s.strategy, s.workload_options["context_length"], *s.strategy_options.values()) for s in found) == [
        ("ddp", 32),
        ("ddp", 64),
        ("fsdp", 32, False),
        ("fsdp", 32, True),
        ("fsdp", 64, False),
        ("fsdp", 64, True),
    ]
    assert cells(set=read_assignments(["workload.context_length=[32,64]"]))[1].workload_options["context_length"] == 64
    with pytest.raises(RequestError, match="a list of several") as caught:
        cells(set={"workload": {"context_length": []}})
    assert caught.value.key == ("set", "workload", "context_length")


def test_one_matrix_has_one_placement() -> None:
    found = cells(strategy="ddp", gpus=1, include=[{"gpus": [2], "precision": "bf16"}])
    assert [(s.world_size, s.precision, s.cores_per_rank) for s in found] == [(1, "fp32", 1), (2, "bf16", 1)]


def test_more_cells_than_anybody_means_are_refused_at_once() -> None:
    with pytest.raises(RequestError, match="1000000 cells") as caught:
        cells(micro_batch=list(range(1, 1001)), learning_rate=list(range(1, 1001)))
    assert caught.value.key[0] in ("micro_batch", "learning_rate")


@given(data=st.data(), names=st.lists(st.sampled_from(INDEPENDENT), min_size=1, max_size=4, unique=True))
@settings(max_examples=60)
def test_excluding_and_including_are_opposites(data: st.DataObject, names: list[str]) -> None:
    asked = {name: AXES[name] for name in names}
    chosen = {name: data.draw(st.sampled_from(AXES[name])) for name in names}
    everything = cells(**asked)
    left = [spec for spec in everything if any(said(spec, name) != value for name, value in chosen.items())]
    assert cells(**asked, exclude=[chosen]) == left
    assert set(cells(**asked, exclude=[chosen], include=[chosen])) == set(everything)


def test_exclusions_match_any_of_a_list_and_every_key() -> None:
    found = cells(
        strategy="ddp,fsdp",
        gpus="1,2",
        precision="fp32,bf16,fp16",
        exclude=[{"strategy": "fsdp", "precision": ["16-mixed", "bf16"]}, {"gpus": "all", "precision": "32"}],
    )
    assert {(s.strategy, s.world_size, s.precision) for s in found} == {
        ("ddp", 1, "fp32"),
        *(("ddp", ranks, precision) for ranks in (1, 2) for precision in ("bf16", "fp16")),
        ("fsdp", 1, "fp32"),
    }
    with pytest.raises(RequestError, match="every cell is excluded"):
        cells(exclude=[{}])


def test_exclusions_see_options() -> None:
    asked = {"workload": {"context_length": [32, 64]}}
    assert len(cells(set=asked, exclude=[{"set": {"workload": {"context_length": [16, 32]}}}])) == 1
    assert len(cells(set=asked, exclude=[{"set": {"strategy": {"static_graph": True}}}])) == 2


def test_an_inclusion_says_what_differs_and_can_stand_alone() -> None:
    found = cells(GPUS, gpus=4, include=[{"strategy": "fsdp", "gpus": 8, "size": "1.3b"}], steps=7)
    assert [(s.strategy, s.world_size, s.size, s.steps) for s in found] == [
        ("ddp", 4, "124m", 7),
        ("fsdp", 8, "1.3b", 7),
    ]
    alone = resolve(Request(baseline=False, include=[{"strategy": "fsdp", "gpus": 1}]), CPU)
    assert [spec.strategy for spec in alone] == ["fsdp"]


def test_an_override_changes_the_cells_it_matches_one_after_the_other() -> None:
    overrides = [
        {"where": {"size": "124m"}, "micro_batch": 2},
        {"where": {"micro_batch": 2, "strategy": "fsdp"}, "activation_checkpointing": True, "steps": [5, 6]},
        {"where": {"precision": "fp16"}, "micro_batch": 1},
    ]
    found = cells(strategy="ddp,fsdp", size="tiny,124m", steps=9, micro_batch=8, override=overrides)
    assert [(s.strategy, s.size, s.micro_batch, s.activation_checkpointing, s.steps) for s in found] == [
        ("ddp", "tiny", 8, False, 9),
        ("fsdp", "tiny", 8, False, 9),
        ("ddp", "124m", 2, False, 9),
        ("fsdp", "124m", 2, True, 5),
        ("fsdp", "124m", 2, True, 6),
    ]


def test_overridden_options_keep_the_others() -> None:
    asked = {"workload": {"num_layers": 3, "dropout": 0.1}}
    override = {"where": {"strategy": "fsdp"}, "set": {"workload": {"num_layers": 4}, "strategy": {"prefetch": 1}}}
    ddp, fsdp = cells(strategy="ddp,fsdp", set=asked, override=[override])
    assert (ddp.workload_options["num_layers"], fsdp.workload_options["num_layers"]) == (3, 4)
    assert ddp.workload_options["dropout"] == fsdp.workload_options["dropout"] == 0.1
    assert (ddp.strategy_options, fsdp.strategy_options) == ({}, {"prefetch": 1})


MATRIX = """
[run]
strategy = ["ddp", "fsdp"]
size = ["tiny", "124m"]
steps = 5

[[run.exclude]]
size = "124m"
strategy = "ddp"

[[run.include]]
strategy = "deepspeed_stage_3"
gpus = 1

[[run.override]]
where.size = "124m"
micro_batch = 2
set.workload.num_layers = 2
"""


def read_and_resolve(file: Path) -> list[RunSpec]:
    asked = read_asked({}, file)
    try:
        return resolve(asked.request(), CPU)
    except RequestError as error:
        raise asked.located(error) from None


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (('strategy = "ddp"\n', 'strateg = "ddp"\n'), 9, ["exclude.strateg", "Did you mean 'strategy'"]),
        (('strategy = "ddp"\n', 'strategy = "dp"\n'), 9, ["exclude.strategy", "Did you mean 'ddp'"]),
        (('strategy = "ddp"\n', 'data = "/no/such"\n'), 9, ["exclude.data", "does not exist"]),
        (("gpus = 1\n", "gpus = 1000\n"), 13, ["include.gpus", "there can be 64"]),
        (("gpus = 1\n", "gpus = 1\nrepeats = 2\n"), 14, ["include.repeats", "unknown key"]),
        (
            ('where.size = "124m"', 'where.size = "124m"\nwhere.repeats = 3'),
            17,
            ["override.where.repeats", "unknown key"],
        ),
        (('where.size = "124m"\n', ""), 15, ["override", "required"]),
        (("micro_batch = 2", "micro_batch = 0"), 17, ["override.micro_batch", "at least 1"]),
        (("micro_batch = 2", "gpus = 2"), 17, ["override.gpus", "exclude and include"]),
        (("micro_batch = 2", "target_precision = 0.1"), 17, ["override.target_precision", "Leave one out"]),
        (("num_layers", "layers"), 18, ["override.set.workload.layers", "num_layers"]),
        (("[[run.exclude]]", "[run.exclude]"), 7, ["exclude", "double brackets"]),
        (("steps = 5", "steps = []"), 5, ["steps", "several"]),
    ],
)
def test_a_mistake_in_a_matrix_is_told_by_line_and_key(
    tmp_path: Path, change: tuple[str, str], line: int, words: list[str]
) -> None:
    assert MATRIX.count(change[0]) == 1
    file = tmp_path / "matrix.toml"
    file.write_text(MATRIX.replace(*change))
    with pytest.raises(UserError) as caught:
        read_and_resolve(file)
    assert f"matrix.toml, line {line}, " in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_matrix_itself_is_right(tmp_path: Path) -> None:
    file = tmp_path / "matrix.toml"
    file.write_text(MATRIX)
    found = read_and_resolve(file)
    assert {(s.strategy, s.size, s.world_size, s.micro_batch) for s in found} >= {
        ("ddp", "tiny", 2, 4),
        ("fsdp", "tiny", 2, 4),
        ("fsdp", "124m", 2, 2),
        ("deepspeed_stage_3", "tiny", 1, 4),
        ("deepspeed_stage_3", "124m", 1, 2),
        ("single", "124m", 1, 2),
    }
    assert ("ddp", "124m") not in {(s.strategy, s.size) for s in found}
    assert {s.workload_options["num_layers"] for s in found if s.size == "124m"} == {2}
