"""The backends of frameworks: what is refused before a run, what is left of the environment, what they cost."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from scalebench import strategies, workloads
from scalebench.analysis.framework import framework_cost
from scalebench.reporting.experiments import experiments
from scalebench.reporting.frameworks import framework_costs
from scalebench.scheme import model_of, scheme_of
from scalebench.strategies.config import PRECISIONS, TrainConfig
from scalebench.strategies.framework import Framework, private_environment
from scalebench.strategies.packages import unusable
from tests.unit.factory import make_repeats, make_spec

NAMES = [name for name, entry in strategies.BUILTIN.items() if entry.wraps]
ON_CPU = ["lightning_ddp", "lightning_model_parallel", "accelerate_ddp"]


def framework(name: str) -> Framework:
    made = strategies.create(name)
    assert isinstance(made, Framework)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_registry_and_the_class_agree_on_what_is_wrapped(name: str) -> None:
    wrapped = strategies.create(strategies.raw_name(name))
    made = framework(name)
    assert made.raw == wrapped
    assert made.default_grad_sync == wrapped.default_grad_sync


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_the_extra_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = framework(name).needs
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    reason = framework(name).unsupported_reason(TrainConfig(), "cuda", 2)
    assert reason == f"{package} is not installed: pip install 'scalebench-suite[{package}]'"


def test_an_old_package_is_told_with_its_version() -> None:
    assert unusable("torch", (2, 6)) is None
    version = torch.__version__
    assert unusable("torch", (99, 1)) == (
        f"torch {version} is older than what is tested here: pip install -U 'torch>=99.1'"
    )


def test_a_folder_of_a_packages_name_is_told_from_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_such_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert "a folder or file named no_such_package" in str(unusable("no_such_package", (1,)))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_framework_would_do_instead_on_a_cpu_is_refused_with_what_to_use(name: str) -> None:
    made = framework(name)
    refused = {p for p in PRECISIONS if made.substitution(TrainConfig(precision=p), "cpu", 2)}
    assert refused == ({"fp16", "fp16-true"} if name in ON_CPU else set(PRECISIONS))
    reason = made.substitution(TrainConfig(precision="fp16"), "cpu", 2)
    assert reason is not None
    assert "use " in reason


def test_accelerate_would_wrap_nothing_on_one_gpu() -> None:
    assert framework("accelerate_ddp").substitution(TrainConfig(), "cuda", 2) is None
    assert "wraps nothing" in str(framework("accelerate_ddp").substitution(TrainConfig(), "cuda", 1))


def test_variables_are_as_before_and_those_of_other_launchers_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with private_environment():
        assert "ACCELERATE_MIXED_PRECISION" not in os.environ
        assert os.environ["OMP_NUM_THREADS"] == str(torch.get_num_threads())
        os.environ["MASTER_PORT"] = "12910"
        os.environ["PATH"] = ""
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", NAMES)
def test_theory_takes_a_framework_for_what_it_wraps(name: str) -> None:
    model = model_of(workloads.create("gpt", "tiny", {}))
    rule = strategies.default_grad_sync(name)
    own, raw = (
        scheme_of(make_spec(strategy=strategy, world_size=2, grad_sync=rule, accumulation=2), model)
        for strategy in (name, strategies.raw_name(name))
    )
    assert own is not None
    assert own == raw


def test_the_cost_is_the_ratio_of_the_times_of_the_same_cell() -> None:
    raw, dear = make_spec(strategy="ddp", world_size=2), make_spec(strategy="lightning_ddp", world_size=2)
    other = make_spec(strategy="accelerate_ddp", world_size=2, precision="bf16")
    records = [
        *make_repeats(raw, [0.010, 0.011, 0.012], memory={"tensor_peak": 100}),
        *make_repeats(dear, [0.020, 0.022, 0.024], memory={"tensor_peak": 150}),
        *make_repeats(other, [0.01, 0.01, 0.01]),
    ]
    (experiment,) = experiments(records)
    cell = next(cell for cell in experiment.cells if cell.spec.strategy == "lightning_ddp")
    cost = framework_cost(cell, experiment.cells, "ddp")
    assert cost.time_ratio.estimate is not None
    assert cost.memory_ratio.estimate is not None
    assert cost.time_ratio.estimate.value == pytest.approx(2.0)
    assert cost.time_ratio.estimate.low is not None
    assert cost.time_ratio.estimate.low < 2.0
    assert cost.memory_ratio.estimate.value == pytest.approx(1.5)
    table = framework_costs(experiment)
    assert table is not None
    assert list(table.frame["raw backend"]) == ["ddp", "ddp"]
    assert "2.00×" in table.frame["time over the raw backend's"][0]
    assert table.notes == ["Not compared (ddp was not measured in the same cell): accelerate_ddp."]


def test_without_a_framework_there_is_no_table_of_its_cost() -> None:
    (experiment,) = experiments(make_repeats(make_spec(strategy="ddp"), [0.01]))
    assert framework_costs(experiment) is None
