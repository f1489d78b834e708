"""The llama workload against published sizes, torch's FLOP counter and transformers' LlamaForCausalLM."""

import pytest
import torch

from scalebench import workloads
from scalebench.errors import UserError
from scalebench.strategies.construct import initial_value
from tests.unit.test_flops import counted

PUBLISHED = {
    "1b": 1_235_814_400,
    "3b": 3_212_749_824,
    "7b": 6_738_415_616,
    "8b": 8_030_261_248,
    "13b": 13_015_864_320,
    "70b": 70_553_706_496,
}
"""As the model cards of the published checkpoints count them (1.24B, 3.21B, 6.74B, 8.03B, 13B, 70.6B)."""


@pytest.mark.parametrize("size", workloads.size_names("llama"))
def test_sizes_have_as_many_parameters_as_published(size):
    workload = workloads.create("llama", size)
    with torch.device("meta"):
        built = sum(parameter.numel() for parameter in workload.build().parameters())
    assert workload.parameter_count() == built == PUBLISHED.get(size, built)


@pytest.mark.parametrize("options", [{}, {"tie_embeddings": True, "num_kv_heads": 4, "context_length": 128}])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_agree_with_torchs_counter(options, checkpointing):
    workload = workloads.create("llama", "tiny", options)
    expected = workload.flops_per_sample() + (workload.recomputed_flops_per_sample() if checkpointing else 0)
    assert counted(workload, 2, checkpointing=checkpointing) == pytest.approx(2 * expected, rel=0.02)


def test_flops_of_8b_agree_with_torchs_counter():
    workload = workloads.create("llama", "8b", {"num_layers": 2})
    assert counted(workload, 1) == pytest.approx(workload.flops_per_sample(), rel=0.02)


def filled(workload):
    """The module on the CPU with its start values."""
    module = workload.build()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(initial_value(workload, name, parameter, 0, torch.device("cpu")))
    return module


def theirs(config, module):
    """transformers' model of the same shape with the same weights."""
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            rms_norm_eps=1e-5,
            rope_theta=config.rope_theta,
            tie_word_embeddings=config.tie_embeddings,
        )
    )
    own = module.state_dict()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(own["embedding.weight"])
        model.lm_head.weight.copy_(own["head.weight"])
        model.model.norm.weight.copy_(own["head.norm.weight"])
        for index, layer in enumerate(model.model.layers):
            at = f"blocks.{index}"
            width, kv = config.hidden_size, config.kv_size
            for part, weight in zip("qkv", own[f"{at}.qkv.weight"].split([width, kv, kv]), strict=True):
                getattr(layer.self_attn, f"{part}_proj").weight.copy_(weight)
            layer.self_attn.o_proj.weight.copy_(own[f"{at}.attention_output.weight"])
            gate, up = own[f"{at}.gate_up.weight"].chunk(2)
            layer.mlp.gate_proj.weight.copy_(gate)
            layer.mlp.up_proj.weight.copy_(up)
            layer.mlp.down_proj.weight.copy_(own[f"{at}.down.weight"])
            layer.input_layernorm.weight.copy_(own[f"{at}.attention_norm.weight"])
            layer.post_attention_layernorm.weight.copy_(own[f"{at}.mlp_norm.weight"])
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_it_computes_what_transformers_does(tied):
    workload = workloads.create("llama", "tiny", {"tie_embeddings": tied})
    module = filled(workload)
    model = theirs(workload.config, module)
    batch = workload.samples("synthetic", 0).__getitems__([0, 1])
    loss = module(batch)
    logits = model(input_ids=batch["tokens"]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    expected.backward()
    for ours, other in (
        (module.embedding.weight, model.model.embed_tokens.weight),
        (module.blocks[1].down.weight, model.model.layers[1].mlp.down_proj.weight),
        (module.blocks[0].attention_norm.weight, model.model.layers[0].input_layernorm.weight),
    ):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 3}, "3 heads"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"rope_theta": 0.0}, "above 0"),
        ({"num_layers": 0}, "at least 1"),
    ],
)
def test_shapes_that_cannot_be_built(options, words):
    with pytest.raises(UserError, match=words):
        workloads.create("llama", "tiny", options)
