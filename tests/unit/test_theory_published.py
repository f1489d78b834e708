"""The formulas of communication and memory against what their papers print."""

from __future__ import annotations

import pytest

from scalebench.theory.activations import gpt_saved
from scalebench.theory.communication import bus_share, traffic, wire_bytes, wire_share
from scalebench.theory.memory import memory
from scalebench.theory.model import Model, Module, Parameter
from scalebench.theory.scheme import ElementBytes, FullySharded, Replicated, Scheme, Sharding, Zero

FP16 = ElementBytes(parameter=2, compute=2, reduce=2, gradient=2, state=4, master=4)
"""ZeRO's mixed precision: 2 Ψ of parameters, 2 Ψ of gradients, and K = 12: fp32 parameters and two moments."""


def one_block(elements: int) -> Model:
    """A model of one block of one parameter, which divides by everything asked of it here."""
    parameter = Parameter(shape=(64, elements // 64))
    root = Module(children=(Module(own=(0,), block=True),))
    return Model(parameters=(parameter,), blocks=((0,),), root=root)


def scheme(sharding: Sharding, ranks: int = 64, **changes: object) -> Scheme:
    return Scheme(**({"ranks": ranks, "backend": "nccl", "bytes": FP16, "sharding": sharding} | changes))


def zero(stage: int, **options: object) -> Zero:
    nothing_kept = {"param_persistence_threshold": 0, "max_reuse_distance": 0, "max_live_parameters": 0}
    return Zero(stage=stage, **(nothing_kept | options))


def test_zero_figure_1() -> None:
    """7.5 billion parameters on 64 GPUs: 120 GB, with gradients sharded 16.6 GB, with parameters too 1.9 GB."""
    model = one_block(7_500_000_000)
    states = {}
    for name, sharding, element in (
        ("baseline", Replicated(), FP16),
        ("stage 2", zero(2), FP16),
        ("stage 3", zero(3), FP16),
    ):
        held = memory(model, scheme(sharding, bytes=element), None, 1)
        states[name] = (held.parameters + held.optimizer_state + held.gradients) / 1e9
    assert states["baseline"] == pytest.approx(120.0, abs=0.05)
    # Gradients are summed in fp32 here, of which each GPU has 7.5e9 / 64 · 4 bytes: 0.2 GB more than the paper's fp16.
    assert states["stage 2"] == pytest.approx(16.6, abs=0.05)
    assert states["stage 3"] == pytest.approx(1.88, abs=0.005)


def test_zero_section_7_communication_volume() -> None:
    """Per rank and step: data parallelism 2 Ψ, stage 3 3 Ψ (elements sent and received alike, many ranks)."""
    elements = 6_400_000
    model, many = one_block(elements), 1 - 1 / 64

    def sent(sharding: Sharding) -> float:
        return wire_bytes(traffic(model, scheme(sharding)), "nccl") / 2 / elements

    assert sent(Replicated()) == pytest.approx(2 * many)
    assert sent(zero(3)) == pytest.approx(3 * many)
    assert sent(FullySharded(shard_ranks=64, reshard_ranks=64)) == pytest.approx(3 * many)
    assert sent(FullySharded(shard_ranks=64, reshard_ranks=1)) == pytest.approx(2 * many)
    # What DeepSpeed does, other than the paper: all-reduce where a reduce-scatter would do.
    assert sent(zero(1)) == sent(zero(2)) == pytest.approx(3 * many)


def test_activations_of_korthikanti_equation_2() -> None:
    """34 s b h bytes per layer in 16 bit; 5 a s² b more for scores, of which flash attention keeps a sum per row."""
    length, width, heads = 2048, 12288, 96
    saved = gpt_saved(
        num_layers=1, hidden_size=width, num_heads=heads, vocab_size=51200, context_length=length, dropout=True
    )
    assert saved.block.bytes(compute=2, residual=2) == 34 * length * width + 4 * heads * length
    assert saved.block_input.bytes(compute=2, residual=2) == 2 * length * width


@pytest.mark.parametrize(
    ("kind", "factor"), [("all_reduce", 2 * 7 / 8), ("all_gather", 7 / 8), ("reduce_scatter", 7 / 8), ("broadcast", 1)]
)
def test_bus_bandwidth_is_that_of_nccl_tests(kind: str, factor: float) -> None:
    assert bus_share(kind, 8) == factor  # type: ignore[arg-type]


def test_gloo_reduces_everywhere_what_it_should_scatter() -> None:
    assert wire_share("reduce_scatter", 4, "gloo") == wire_share("all_reduce", 4, "gloo") == 1.5
    assert wire_share("reduce_scatter", 4, "nccl") == wire_share("all_gather", 4, "nccl") == 0.75
