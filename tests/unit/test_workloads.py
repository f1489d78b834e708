"""Names, sizes and options of workloads: what is allowed, what is refused and how, without torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from scalebench import data, workloads
from scalebench.errors import UserError
from scalebench.harness.parity import comparable
from scalebench.strategies.base import Workload
from scalebench.workloads.config import Config
from scalebench.workloads.options import checked_options
from tests.processes import printed

DOCS = Path(__file__).parents[2] / "docs"


def test_options_are_the_sizes_changed_by_those_given():
    resolved = workloads.resolve_options("gpt", "124m", {"num_layers": 2, "dropout": 0})
    assert resolved == {
        "num_layers": 2,
        "hidden_size": 768,
        "num_heads": 12,
        "context_length": 1024,
        "vocab_size": 50304,
        "dropout": 0.0,
    }
    assert isinstance(resolved["dropout"], float)


def test_created_workload_keeps_the_contract():
    workload = workloads.create("gpt", "tiny", {"context_length": 32})
    assert isinstance(workload, Workload)
    assert (workload.name, workload.size, workload.item, workload.items_per_sample) == ("gpt", "tiny", "token", 32)
    assert workload.default_micro_batch == workloads.default_micro_batch("gpt", "tiny")


def test_description_lists_every_size_as_it_is_built():
    for info in workloads.describe():
        assert workloads.create(info.workload, info.size).parameter_count() == info.parameters
        assert workloads.resolve_options(info.workload, info.size) == info.options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gtp", "tiny", {}), ["gtp", "Did you mean 'gpt'?"]),
        (("gpt", "125m", {}), ["125m", "Did you mean '124m'?", "tiny", "13b"]),
        (("gpt", "tiny", {"num_layer": 2}), ["num_layer", "Did you mean 'num_layers'?"]),
        (("gpt", "tiny", {"num_layers": 2.5}), ["2.5", "a whole number", "--set workload.num_layers=2"]),
        (("gpt", "tiny", {"num_layers": True}), ["True", "a whole number"]),
        (("gpt", "tiny", {"num_layers": "two"}), ["'two'", "a whole number"]),
        (("gpt", "tiny", {"num_layers": None}), ["None", "a whole number"]),
        (("gpt", "tiny", {"num_layers": float("inf")}), ["inf", "a whole number"]),
        (("gpt", "tiny", {"num_layers": 0}), ["0", "at least 1"]),
        (("gpt", "tiny", {"vocab_size": -1}), ["-1", "at least 1"]),
        (("gpt", "tiny", {"num_heads": 3}), ["128", "3 heads"]),
        (("gpt", "tiny", {"dropout": 1.0}), ["1.0", "below 1"]),
        (("gpt", "tiny", {"dropout": float("nan")}), ["nan", "a number"]),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(arguments, words):
    for ask in (workloads.create, workloads.resolve_options):
        with pytest.raises(UserError) as caught:
            ask(*arguments)
        assert [word for word in words if word not in str(caught.value)] == []


def test_names_and_options_need_no_torch():
    code = """
import sys
from pathlib import Path
from scalebench import data, workloads
workloads.resolve_options("gpt", "tiny", {"dropout": 0.1})
list(workloads.describe()), workloads.size_names("gpt"), data.resolve_name("synthetic")
assert "torch" not in sys.modules
"""
    printed("-c", code)


@pytest.mark.parametrize("info", list(workloads.describe()), ids=lambda info: f"{info.workload}-{info.size}")
def test_documented_sizes_are_the_real_ones(info):
    """Every size's row starts with its name and ends with its parameters and its micro-batch."""
    rows = (DOCS / "workloads" / f"{info.workload}.md").read_text().splitlines()
    start, end = f"| {info.size} | ", f" | {info.parameters:,} | {info.default_micro_batch} |"
    row = next(row for row in rows if row.startswith(start) and row.endswith(end))
    assert {cell.strip() for cell in row.removeprefix(start).removesuffix(end).split("|")} <= {
        f"{value:,}" if isinstance(value, int) else str(value) for value in info.options.values()
    }


def test_documented_index_is_what_is_registered():
    index = (DOCS / "workloads.md").read_text()
    for name, family in workloads.FAMILIES.items():
        assert f"| [{name}](workloads/{name}.md) |" in index
        row = next(line for line in index.splitlines() if line.startswith(f"| [{name}]"))
        assert row.endswith(f"| {family.gpu_size} | `{family.default_data.removeprefix('text:')}` |")


@pytest.mark.parametrize("name", workloads.FAMILIES)
def test_sizes_are_where_they_are_looked_for(name):
    family, sizes = workloads.FAMILIES[name], workloads.size_names(name)
    assert workloads.default_size(name, "cpu") == sizes[0] == "tiny"
    assert workloads.default_size(name, "cuda") in sizes[1:]
    assert list(family.default_micro_batch) == sizes
    assert workloads.depth_option(name) in {*workloads.resolve_options(name, "tiny"), None}
    assert data.resolve_name(workloads.default_data(name)) == workloads.default_data(name)


@dataclass(frozen=True, kw_only=True)
class Anything(Config):
    """One option of every kind."""

    count: int = 3
    share: float = 0.5
    tied: bool = True
    norm: Literal["batch", "group"] = "batch"
    path: str = "here"
    width: int | None = None
    parameter_count: ClassVar[int] = 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("count", 4), ("share", 0.25), ("tied", False), ("norm", "group"), ("path", "a/b"), ("width", 7), ("width", None)],
)
def test_options_of_every_kind_are_taken_as_they_are(option, value):
    assert checked_options(Anything(), {option: value}) == {option: value}


def test_a_whole_number_is_a_number():
    taken = checked_options(Anything(), {"share": 1})
    assert (taken, type(taken["share"])) == ({"share": 1.0}, float)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("count", True, "give a whole number, e.g. --set workload.count=3"),
        ("tied", 1, "give true or false, e.g. --set workload.tied=true"),
        ("norm", "layer", "give batch, or group, e.g. --set workload.norm=batch"),
        ("path", 5, "give text, e.g. --set workload.path=here"),
        ("width", 0.5, "give a whole number, or none, e.g. --set workload.width=none"),
        ("share", float("nan"), "give a number, e.g. --set workload.share=0.5"),
        ("shares", 1, "Did you mean 'share'?"),
    ],
)
def test_options_of_every_kind_refuse_others(option, value, words):
    with pytest.raises(UserError, match=re.escape(words)):
        checked_options(Anything(), {option: value})


def test_parity_checks_what_can_be_repeated_to_within_rounding():
    options = {"dropout": 0.1, "norm": "sync_batch", "activation": "relu", "pixel_error": "absolute", "num_layers": 2}
    smooth = {"dropout": 0.0, "norm": "batch", "activation": "silu", "pixel_error": "squared", "num_layers": 2}
    assert comparable(options) == comparable(smooth) == smooth
    assert comparable({"norm": "group", "share": 1.0}) == {"norm": "group", "share": 1.0}


def test_a_squared_error_is_one():
    absolute, squared = (
        workloads.create("vavae", "tiny", {"pixel_error": error, "kl_weight": 0.0}) for error in ("absolute", "squared")
    )
    images, decoded = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    for workload, wanted in ((absolute, F.l1_loss(decoded, images)), (squared, F.mse_loss(decoded, images))):
        sums = workload.build()._losses(images, decoded, torch.zeros(2, 1), torch.zeros(2, 1))
        torch.testing.assert_close(sums["loss_sum"] / 2, wanted)
        torch.testing.assert_close(sums["l1_sum"] / 2, F.l1_loss(decoded, images))
