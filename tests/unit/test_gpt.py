"""The gpt workload against published figures, a plain reference implementation, and its contract."""

import math
from functools import partial

import pytest
import torch

from scalebench import workloads
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.construct import build_on_meta
from tests.unit.small_models import built, graphs_of

# OpenAI's GPT-2 checkpoints as their parameters are counted everywhere, with 50,257 tokens and context 1024.
GPT_2 = [((12, 768, 12), 124_439_808), ((24, 1024, 16), 354_823_168), ((36, 1280, 20), 774_030_080)]
# Brown et al. 2020, table 2.1: name to parameters, layers, width.
GPT_3 = {
    "124m": (125e6, 12, 768),
    "350m": (350e6, 24, 1024),
    "760m": (760e6, 24, 1536),
    "1.3b": (1.3e9, 24, 2048),
    "2.7b": (2.7e9, 32, 2560),
    "7b": (6.7e9, 32, 4096),
}


gpt = partial(built, "gpt", context_length=16)


def random_batch(workload, samples=3):
    shape = (samples, workload.config.context_length)
    return {name: torch.randint(workload.config.vocab_size, shape) for name in ("tokens", "targets")}


def reference_loss(state, batch, heads, layers):
    """GPT-2 written out: einsum, an explicit mask and softmax, no torch module."""

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x, name):
        return torch.einsum("bti,oi->bto", x, state[f"{name}.weight"]) + state[f"{name}.bias"]

    tokens, targets = batch["tokens"], batch["targets"]
    time = tokens.size(1)
    future = torch.ones(time, time).tril() == 0
    x = state["embedding.tokens.weight"][tokens] + state["embedding.positions"][:time]
    for i in range(layers):
        q, k, v = linear(norm(x, f"blocks.{i}.attention_norm"), f"blocks.{i}.qkv").chunk(3, -1)
        q, k, v = (part.reshape(*part.shape[:2], heads, -1) for part in (q, k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.size(-1))
        weights = scores.masked_fill(future, -math.inf).exp() / scores.masked_fill(future, -math.inf).exp().sum(
            -1, True
        )
        attended = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
        x = x + linear(attended, f"blocks.{i}.attention_output")
        up = linear(norm(x, f"blocks.{i}.mlp_norm"), f"blocks.{i}.mlp_input")
        x = x + linear(up * 0.5 * (1 + torch.erf(up / math.sqrt(2))), f"blocks.{i}.mlp_output")
    logits = torch.einsum("btd,vd->btv", norm(x, "head.norm"), state["embedding.tokens.weight"])
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return (logits.exp().sum(-1).log() - chosen).mean()


@pytest.mark.parametrize(("shape", "published"), GPT_2)
def test_parameters_of_gpt_2_are_the_published_ones(shape, published):
    layers, width, heads = shape
    options = {"num_layers": layers, "hidden_size": width, "num_heads": heads, "vocab_size": 50257}
    assert workloads.create("gpt", "124m", options).parameter_count() == published


@pytest.mark.parametrize("size", GPT_3)
def test_sizes_are_gpt_3s(size):
    parameters, layers, width = GPT_3[size]
    workload = workloads.create("gpt", size)
    assert (workload.config.num_layers, workload.config.hidden_size) == (layers, width)
    assert workload.config.vocab_size == 50304
    assert workload.parameter_count() == pytest.approx(parameters, rel=0.02)


@pytest.mark.parametrize("size", workloads.size_names("gpt"))
def test_counted_parameters_are_those_of_the_module(size):
    workload = workloads.create("gpt", size)
    module = build_on_meta(workload, TrainConfig())
    assert sum(parameter.numel() for parameter in module.parameters()) == workload.parameter_count()


def test_loss_and_gradients_equal_a_plain_reference():
    torch.manual_seed(0)
    workload, module = gpt(num_layers=3, num_heads=4)
    with torch.no_grad():  # away from the start values, whose biases and gains would hide an error
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    batch = random_batch(workload)
    state = {name: value.detach().double().requires_grad_() for name, value in module.named_parameters()}
    expected = reference_loss(state, batch, heads=4, layers=3)
    expected.backward()
    loss = module(batch)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    for name, parameter in module.named_parameters():
        wanted = state[name].grad
        assert (parameter.grad - wanted).norm() <= 1e-4 * wanted.norm(), name


def test_shorter_samples_than_the_context_are_fine():
    workload, module = gpt()
    batch = {name: value[:, :5] for name, value in random_batch(workload).items()}
    state = {name: value.detach().double() for name, value in module.named_parameters()}
    expected = reference_loss(state, batch, workload.config.num_heads, workload.config.num_layers)
    torch.testing.assert_close(module(batch).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-true"])
def test_loss_is_fp32_whatever_computes_it(precision):
    workload, module = gpt(TrainConfig(precision=precision))
    batch = random_batch(workload)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = module(batch)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert loss.item() == pytest.approx(math.log(256), abs=0.2)


def test_start_values_are_gpt_2s():
    _, module = gpt(num_layers=8, hidden_size=256, num_heads=4)
    for name, value in module.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif value.ndim == 1:
            assert (value == 1).all(), name
        else:
            residual = name.endswith(("attention_output.weight", "mlp_output.weight"))
            std = 0.02 / math.sqrt(2 * 8) if residual else 0.02
            assert value.std().item() == pytest.approx(std, rel=0.05), name
            assert abs(value.mean().item()) < 5 * std / math.sqrt(value.numel()), name


def test_output_layer_is_the_token_embedding():
    _, module = gpt()
    assert module.head.weight is module.embedding.tokens.weight
    assert "head.weight" not in dict(module.named_parameters())


def test_no_decay_is_every_vector():
    workload, module = gpt()
    vectors = {name for name, parameter in module.named_parameters() if parameter.ndim < 2}
    assert workload.no_decay_names(module) == vectors


def test_named_regions_hold_every_parameter_once():
    workload, module = gpt()
    regions = [module.get_submodule(name) for name in workload.compiled_names(module)]
    held = [parameter for region in regions for parameter in region.parameters()]
    tied = module.head.weight
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in module.parameters()}
    assert len([p for p in held if p is not tied]) == len([p for p in module.parameters() if p is not tied])
    blocks = [module.get_submodule(name) for name in workload.block_names(module)]
    assert blocks == list(module.blocks)


def test_each_region_is_one_graph_and_all_blocks_share_theirs():
    workload, module = gpt(num_layers=10)
    assert graphs_of(workload, module, random_batch(workload)) == 3


def test_dropout_acts_in_training_only():
    workload, module = gpt(dropout=0.5)
    batch = random_batch(workload)
    assert module(batch) != module(batch)
    module.eval()
    assert module(batch) == module(batch)


def test_tiny_learns_real_text(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    workload, module = gpt(context_length=64)
    source = workload.samples("text:stdlib", seed=0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    losses = []
    for step in range(120):
        loss = module(source.__getitems__(range(500 * step, 500 * step + 8)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(256), abs=0.2)
    assert sum(losses[-10:]) / 10 < 3.2  # bytes drawn by their frequency alone cost more


def test_a_prompt_that_fills_the_context_is_continued_from_its_half():
    workload, module = gpt()
    batch = random_batch(workload)
    continued = module(batch, "generate")
    assert continued.shape == (3, 16)
    assert torch.equal(continued[:, :8], batch["tokens"][:, :8])
    assert torch.equal(continued, module({"tokens": batch["tokens"][:, :8]}, "generate"))


def test_drawn_continuations_follow_the_models_distribution():
    _, module = gpt(vocab_size=8, context_length=2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
        prompt = torch.full((4000, 1), 3)
        logits = module.head(module.hidden(prompt[:1]))[0, 0]
        draws = torch.arange(4000).unsqueeze(1).expand(-1, 2) * (2**24 // 4000)
        drawn = module({"tokens": prompt, "draws": draws}, "generate")[:, 1]
    shares = torch.bincount(drawn, minlength=8) / 4000
    torch.testing.assert_close(shares, logits.softmax(-1), rtol=0, atol=1e-3)


def test_perplexity_is_that_of_all_tokens_together():
    workload, module = gpt()
    batches = [random_batch(workload, samples) for samples in (3, 1)]
    found = [module(batch, "metrics") for batch in batches]
    sums = {name: sum(each[name] for each in found) for name in found[0]}
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    assert workload.metrics(sums)["perplexity"] == pytest.approx(module(whole).exp().item(), rel=1e-5)
