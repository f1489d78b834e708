"""Utilisation from hand-made records: which FLOPs, over which peak, and what is said where one is not known."""

from __future__ import annotations

from typing import Any

import pytest

from scalebench.analysis.utilisation import counted_over_formula, peak_of, utilisation
from scalebench.records.probe import TIME_UP, MatmulFacts, Probe, ProbeFacts
from scalebench.records.record import Record
from scalebench.reporting.experiments import experiments
from scalebench.reporting.utilisation import utilisation as table_of
from tests.unit.factory import ENVIRONMENT, make_record, make_spec
from tests.unit.test_probe import make_probe

FULL, CAUSAL, AGAIN = 3e9, 2e9, 1e9
H200 = "NVIDIA H200"


def counting(world_size: int = 1, device_name: str | None = None, **fields: Any) -> Record:
    """Four samples a step of 10 ms on each rank: 400 samples a second."""
    spec = make_spec(world_size=world_size, device="cuda" if device_name else "cpu", **fields)
    record = make_record(spec, 0.01)
    assert record.workload is not None
    flops = {"flops_per_sample": FULL, "causal_flops_per_sample": CAUSAL, "recomputed_flops_per_sample": AGAIN}
    ranks = [rank.model_copy(update={"device_name": device_name}) for rank in record.ranks]
    return record.model_copy(update={"workload": record.workload.model_copy(update=flops), "ranks": ranks})


def probe_of(gigaflops: float, world_size: int = 1, number: str = "fp32", **fields: Any) -> Probe:
    seconds = [[2e9 / (gigaflops * 1e9)] * 2] * world_size
    facts = ProbeFacts(matmul=[MatmulFacts(number=number, size=1000, sustained=True, seconds=seconds)])
    return make_probe(world_size, facts=facts, **fields)


def test_full_and_causal_attention_and_recomputation_are_told_apart() -> None:
    found = utilisation(counting(activation_checkpointing=True), [probe_of(2000)])
    assert found is not None
    assert found.flops_per_second == pytest.approx(400 * FULL)
    assert (found.mfu, found.causal_mfu) == pytest.approx((0.6, 0.4))
    assert (found.hfu, found.of_probe) == pytest.approx((0.8, 0.8))
    plain = utilisation(counting(), [probe_of(2000)])
    assert plain is not None
    assert plain.hfu == plain.mfu


def test_utilisation_is_of_one_rank_however_many_there_are() -> None:
    pair = utilisation(counting(2), [probe_of(2000, 2)])
    assert pair is not None
    assert pair.mfu == pytest.approx(0.6)


def test_a_data_sheet_goes_before_a_probe_which_stands_beside_it() -> None:
    environment = ENVIRONMENT | {"gpus": ["Example GPU"]}
    probe = probe_of(600e3, number="bf16", environment=environment)
    spec = probe.spec.model_copy(update={"device": "cuda", "threads_per_rank": None, "cores_per_rank": None})
    found = utilisation(counting(device_name=H200, precision="bf16"), [probe.model_copy(update={"spec": spec})])
    assert found is not None
    assert found.peak is not None
    assert (found.peak.source, found.peak.flops_per_second) == ("data sheet", 989.5e12)
    assert found.mfu == pytest.approx(400 * FULL / 989.5e12)
    assert found.of_probe == pytest.approx(400 * FULL / 600e12)


def test_the_format_is_that_of_the_products_observed() -> None:
    record = counting(device_name=H200, precision="fp32")
    assert record.contract is not None
    for compute, number in (("tf32", "tf32"), ("bfloat16+float32", "bf16"), ("float32", "fp32")):
        contract = record.contract.model_copy(update={"compute": compute})
        peak = peak_of(record.model_copy(update={"contract": contract}))
        assert peak is not None
        assert peak.number == number


def test_without_a_peak_the_rate_is_known_and_no_share_is() -> None:
    for record in (counting(), counting(device_name="Example GPU")):
        found = utilisation(record)
        assert found is not None
        assert (found.peak, found.mfu, found.causal_mfu, found.hfu, found.of_probe) == (None,) * 5
        (experiment,) = experiments([record])
        shown = table_of(experiment, [])
        assert shown is not None
        assert "MFU, causal" not in shown.frame
        assert "scalebench probe" in " ".join(shown.notes)


def test_a_probe_that_had_no_time_for_every_size_knows_no_peak() -> None:
    probe = probe_of(2000)
    for left_out, known in (
        ({"fp32 from size 1024 on": TIME_UP}, False),
        ({"bf16 from size 256 on": TIME_UP}, True),
        ({"fp32 from size 8192 on": "one could take longer than 0.5 s"}, True),
    ):
        facts = probe.facts.model_copy(update={"left_out": left_out})
        peak = peak_of(counting(), [probe.model_copy(update={"facts": facts})])
        assert (peak is not None) is known, left_out


def test_devices_of_several_names_have_no_one_peak() -> None:
    record = counting(2, device_name=H200)
    other = record.ranks[1].model_copy(update={"device_name": "NVIDIA H100 PCIe"})
    assert peak_of(record.model_copy(update={"ranks": [record.ranks[0], other]})) is None


def test_a_workload_without_a_formula_has_no_utilisation() -> None:
    assert utilisation(make_record(), [probe_of(2000)]) is None
    assert counted_over_formula(make_record()) is None


def test_what_torch_counted_is_set_against_the_formula_of_the_whole_step() -> None:
    record = counting(activation_checkpointing=True, accumulation=2)
    assert record.contract is not None
    counted = record.contract.model_copy(update={"flops_per_step": 8 * (FULL + AGAIN)})
    assert counted_over_formula(record.model_copy(update={"contract": counted})) == 1.0
    assert counted_over_formula(record) is None, "nothing was counted"
