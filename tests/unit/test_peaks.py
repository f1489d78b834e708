"""Peaks against the arithmetic that the hardware is built for: multiprocessors, operations a cycle, boost clock."""

from __future__ import annotations

import pytest

from scalebench.theory.peaks import NUMBERS, peak_flops, table

HARDWARE = {
    # name: multiprocessors, tensor FLOPs a cycle in each (16-bit operands, fp32 sums), boost clock in GHz
    "Tesla V100-SXM2-32GB": (80, 1024, 1.53),
    "Tesla T4": (40, 1024, 1.59),
    "NVIDIA A100-SXM4-80GB": (108, 2048, 1.41),
    "NVIDIA A30": (56, 2048, 1.44),
    "NVIDIA A10": (72, 1024, 1.695),
    "NVIDIA A40": (84, 1024, 1.74),
    "NVIDIA RTX A6000": (84, 1024, 1.80),
    "NVIDIA GeForce RTX 3090": (82, 512, 1.695),
    "NVIDIA GeForce RTX 4090": (128, 512, 2.52),
    "NVIDIA RTX 6000 Ada Generation": (142, 1024, 2.505),
    "NVIDIA L4": (58, 1024, 2.04),
    "NVIDIA L40": (142, 512, 2.49),
    "NVIDIA L40S": (142, 1024, 2.49),
    "NVIDIA H100 80GB HBM3": (132, 4096, 1.83),
    "NVIDIA H100 PCIe": (114, 4096, 1.62),
    "NVIDIA H200": (132, 4096, 1.83),
}


@pytest.mark.parametrize("name", HARDWARE)
def test_tensor_peaks_are_what_the_hardware_can_do_at_its_boost_clock(name: str) -> None:
    multiprocessors, per_cycle, gigahertz = HARDWARE[name]
    assert peak_flops(name, "fp16") == pytest.approx(multiprocessors * per_cycle * gigahertz * 1e9, rel=0.01)


@pytest.mark.parametrize("name", sorted(table()))
def test_every_entry_is_whole_and_in_order(name: str) -> None:
    entry = table()[name]
    assert entry["source"].startswith("NVIDIA")
    known = [entry[number] for number in NUMBERS[:3] if number in entry]
    assert known == sorted(known), "fp32 is at most tf32, which is at most fp16"
    assert known[0] > 1
    assert known[-1] < 10_000, "in TFLOP/s"
    if "bf16" in entry:
        assert entry["bf16"] == entry["fp16"]
        assert entry["fp16"] / entry["tf32"] == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("name", [None, "", "NVIDIA A100", "NVIDIA H100", "Example GPU", "cpu"])
def test_what_is_not_named_exactly_is_unknown(name: str | None) -> None:
    assert peak_flops(name, "bf16") is None


def test_formats_that_the_hardware_lacks_are_unknown() -> None:
    assert peak_flops("Tesla T4", "bf16") is None
    assert peak_flops("Tesla V100-SXM2-16GB", "tf32") is None
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp64") is None
