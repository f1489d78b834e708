"""Names, sizes and options of workloads: what is allowed, what is refused and how, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from scalebench import workloads
from scalebench.errors import UserError
from scalebench.strategies.base import Workload


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
    subprocess.run([sys.executable, "-c", code], check=True)


def test_documented_sizes_are_the_real_ones():
    text = (Path(__file__).parents[2] / "docs" / "workloads.md").read_text()
    for info in workloads.describe():
        names = ("num_layers", "hidden_size", "num_heads", "context_length", "vocab_size")
        numbers = [*(info.options[name] for name in names), info.parameters, info.default_micro_batch]
        assert f"| {info.size} | {' | '.join(f'{number:,}' for number in numbers)} |" in text
