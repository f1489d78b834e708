"""Bytes on a real, if emulated, network interface against the wire figure of the formula."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalebench import workloads
from scalebench.scheme import model_of, scheme_of
from scalebench.spec import RunSpec
from scalebench.theory.communication import traffic, wire_bytes
from tests.distributed.cells import LARGE, cell
from tests.distributed.hosts import namespaces, sent_per_step

pytestmark = pytest.mark.distributed


def expected(spec: RunSpec) -> float:
    model = model_of(workloads.create("gpt", "tiny", spec.workload_options))
    scheme = scheme_of(spec, model)
    assert scheme is not None
    return wire_bytes(traffic(model, scheme), scheme.backend)


def assert_on_the_wire(specs: list[RunSpec], ranks: int, folder: Path) -> None:
    try:
        with namespaces(ranks) as hosts:
            sent = sent_per_step(hosts, [spec.model_dump_json() for spec in specs], folder)
    except PermissionError as error:
        pytest.skip(str(error))
    for spec, by_rank in zip(specs, zip(*sent, strict=True), strict=True):
        assert sum(by_rank) / ranks == pytest.approx(expected(spec), rel=0.03), spec.strategy


@pytest.mark.slow
def test_two_hosts_send_what_the_formula_says(tmp_path: Path) -> None:
    specs = [cell(name, 2, shape=LARGE) for name in ("ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_3")]
    assert_on_the_wire(specs, 2, tmp_path)


@pytest.mark.slow
def test_four_hosts_send_what_the_formula_says(tmp_path: Path) -> None:
    names = ("ddp", "fsdp", "fsdp1", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")
    specs = [cell(name, 4, shape=LARGE, accumulation=accumulation) for name in names for accumulation in (1, 4)]
    assert_on_the_wire([*specs, cell("fsdp", 4, {"shard_size": 2}, LARGE)], 4, tmp_path)
