"""The FLOP formulas against torch's counter, PaLM's closed form and a count by hand."""

from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from scalebench import workloads
from scalebench.theory.flops import attention_flops_per_token, gpt_flops_per_sample, gpt_matmul_parameters

SHAPES = [
    ("gpt", "tiny", {}, 2),
    ("gpt", "124m", {}, 1),
    ("gpt", "350m", {"num_layers": 3, "vocab_size": 1000}, 2),
    ("gpt", "1.3b", {"num_layers": 2}, 1),
    ("dit", "tiny", {}, 2),
    ("dit", "s/8", {}, 1),
    ("dit", "b/2", {"num_layers": 3, "num_register_tokens": 16}, 2),
    ("dit", "xl/4", {"num_layers": 2, "learn_sigma": False}, 1),
    ("jit", "tiny", {}, 2),
    ("jit", "b/4", {"num_layers": 6}, 1),
    ("jit", "l/16", {"num_layers": 3, "class_tokens_from": 2}, 2),
]


def counted(workload, micro_batch, *, checkpointing=False):
    """FLOPs of forward and backward by torch's counter, on the meta device."""
    samples = workload.samples("synthetic", 0).__getitems__(range(micro_batch))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        batch = {name: value.to("meta") for name, value in samples.items()}
        module = workload.build()
        for name in workload.block_names(module) if checkpointing else ():
            block = module.get_submodule(name)
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        module(batch).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("name", "size", "options", "micro_batch"), SHAPES)
def test_formula_agrees_with_torchs_counter(name, size, options, micro_batch):
    workload = workloads.create(name, size, options)
    assert counted(workload, micro_batch) == pytest.approx(micro_batch * workload.flops_per_sample(), rel=0.02)


@pytest.mark.parametrize(("name", "size", "options", "micro_batch"), SHAPES)
def test_formula_with_checkpointing_agrees_with_torchs_counter(name, size, options, micro_batch):
    workload = workloads.create(name, size, options)
    hardware = workload.flops_per_sample() + workload.recomputed_flops_per_sample()
    seen = counted(workload, micro_batch, checkpointing=True)
    assert seen > 1.1 * counted(workload, micro_batch)
    assert seen == pytest.approx(micro_batch * hardware, rel=0.02)


def test_formula_is_palms_for_gpt_2_small():
    # PaLM, appendix B: 6 N + 12 L H Q T per token; N of GPT-2 small without positions, norms and biases.
    weights = 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 50257 * 768
    per_token = 6 * weights + 12 * 12 * 12 * 64 * 1024
    shape = {"num_layers": 12, "hidden_size": 768, "vocab_size": 50257}
    assert gpt_matmul_parameters(**shape) == weights
    assert gpt_flops_per_sample(**shape, context_length=1024) == 1024 * per_token


def test_causal_attention_counts_the_keys_each_query_may_see():
    length, width = 7, 8
    products = sum(2 * 2 * width for query in range(length) for key in range(length) if key <= query)
    per_token = attention_flops_per_token(num_layers=1, hidden_size=width, context_length=length, causal=True)
    assert per_token * length == products


def test_causal_attention_saves_nothing_but_attention():
    workload = workloads.create("gpt", "124m")
    saved = workload.flops_per_sample() - workload.flops_per_sample(causal=True)
    full = 3 * 1024 * attention_flops_per_token(num_layers=12, hidden_size=768, context_length=1024)
    assert saved == pytest.approx(full / 2, rel=1e-3)
