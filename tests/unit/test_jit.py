"""The jit workload against published figures, a plain reference implementation, and its contract."""

import math
from functools import partial

import pytest
import torch

from scalebench import workloads
from scalebench.data.draws import normals
from scalebench.errors import UserError
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.construct import build_on_meta
from scalebench.workloads import flow
from scalebench.workloads.diffusion import grid_sinusoids, sinusoids, to_images, to_patches
from scalebench.workloads.jit import Times, grid_rotations, rotated
from tests.unit.small_models import batch_of, built, graphs_of, moved

CPU = torch.device("cpu")
PUBLISHED = {"b/16": 131, "l/16": 459, "h/16": 953}
"""Li & He 2025: millions of parameters."""

jit = partial(built, "jit")


def turned(x, config, class_tokens):
    """Rotary positions by complex numbers: x (b, tokens, heads, head), class tokens first and not turned."""
    head, side = x.size(-1), config.image_size // config.patch_size
    angles = torch.zeros(x.size(1), head // 2, dtype=torch.float64)
    for row in range(side):
        for column in range(side):
            for index in range(head // 4):
                frequency = 10_000 ** (-2 * index / (head // 2))
                token = class_tokens + side * row + column
                angles[token, index], angles[token, head // 4 + index] = row * frequency, column * frequency
    planes = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(planes * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)


def reference_image(state, noisy, times, labels, config):
    """JiT written out: einsum and softmax, no torch module; fp64."""

    def linear(x, name):
        bias = state.get(f"{name}.bias", 0)
        return torch.einsum("...i,oi->...o", x, state[f"{name}.weight"]) + bias

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"]

    def silu(x):
        return x / (1 + (-x).exp())

    def modulation(name, parts):
        return linear(silu(condition), f"{name}.modulation.linear").unsqueeze(1).chunk(parts, -1)

    label = state["embedding.labels.weight"][labels]
    time = linear(sinusoids(times, 256).double(), "embedding.time.expand")
    condition = linear(silu(time), "embedding.time.mix") + label
    x = linear(linear(to_patches(noisy, config.patch_size), "embedding.bottleneck"), "embedding.patches")
    x = x + grid_sinusoids(math.isqrt(x.size(1)), x.size(2), CPU)
    classes = 0
    for i in range(config.num_layers):
        if i == config.class_tokens_from and config.num_class_tokens:
            classes = config.num_class_tokens
            x = torch.cat([label.unsqueeze(1) + state["embedding.class_positions"], x], 1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation(f"blocks.{i}", 6)
        q, k, v = linear(norm(x, f"blocks.{i}.attention_norm") * (1 + scale) + shift, f"blocks.{i}.qkv").chunk(3, -1)
        q, k, v = (part.reshape(*part.shape[:2], config.num_heads, -1) for part in (q, k, v))
        q = turned(norm(q, f"blocks.{i}.query_norm"), config, classes)
        k = turned(norm(k, f"blocks.{i}.key_norm"), config, classes)
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.size(-1))).softmax(-1)
        attended = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
        x = x + gate * linear(attended, f"blocks.{i}.attention_output")
        up = linear(norm(x, f"blocks.{i}.mlp_norm") * (1 + mlp_scale) + mlp_shift, f"blocks.{i}.mlp_input")
        gates, values = up.chunk(2, -1)
        x = x + mlp_gate * linear(silu(gates) * values, f"blocks.{i}.mlp_output")
    shift, scale = modulation("head", 2)
    x = norm(x[:, classes:], "head.norm") * (1 + scale) + shift
    return to_images(linear(x, "head.output"), config.patch_size)


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_are_the_papers(size):
    assert workloads.create("jit", size).parameter_count() / 1e6 == pytest.approx(PUBLISHED[size], abs=0.6)


@pytest.mark.parametrize("size", ["b/4", "b/8", "b/16", "l/16", "h/16"])
def test_every_size_sees_256_patches(size):
    assert workloads.create("jit", size).config.num_patches == 256


@pytest.mark.parametrize("size", workloads.size_names("jit"))
@pytest.mark.parametrize("options", [{}, {"num_class_tokens": 0, "bottleneck_size": 8}])
def test_counted_parameters_are_those_of_the_module(size, options):
    workload = workloads.create("jit", size, options)
    module = build_on_meta(workload, TrainConfig())
    assert sum(parameter.numel() for parameter in module.parameters()) == workload.parameter_count()
    assert list(module.buffers()) == []


@pytest.mark.parametrize("options", [{}, {"num_class_tokens": 0}, {"class_tokens_from": 0, "noise_scale": 2.0}])
def test_loss_and_gradients_equal_a_plain_reference(options):
    torch.manual_seed(0)
    workload, module = jit(**options)
    moved(module)
    batch = batch_of(workload)
    batch["unlabelled"][1] = True
    state = {name: value.detach().double().requires_grad_() for name, value in module.named_parameters()}
    clean, times = batch["images"].double() / 127.5 - 1, flow.time_of(batch["times"])
    noise = normals(batch["noise_keys"], *clean.shape[1:]).double()
    noisy = flow.between(clean, workload.config.noise_scale * noise, times.double())
    labels = torch.where(batch["unlabelled"], 10, batch["labels"])
    predicted = reference_image(state, noisy, times, labels, workload.config)
    left = (1 - times.double()).clamp(min=0.05)[:, None, None, None]
    expected = ((predicted - noisy) / left - (clean - noisy) / left).square().mean()
    expected.backward()
    loss = module(batch)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    for name, parameter in module.named_parameters():
        wanted = state[name].grad
        assert (parameter.grad - wanted).norm() <= 1e-3 * wanted.norm(), name


def test_a_turned_product_depends_on_the_distance_alone():
    query, key = torch.randn(8), torch.randn(8)
    rotations = grid_rotations(4, 8, CPU)
    places = torch.eye(16)[:, :, None]
    queries, keys = (rotated((places.sum(1) * one)[None, None], rotations)[0, 0] for one in (query, key))
    products = (queries @ keys.T).reshape(4, 4, 4, 4)
    assert products[0, 0, 1, 2].item() == pytest.approx(products[2, 1, 3, 3].item(), rel=1e-4)
    assert products[0, 0, 1, 2].item() != pytest.approx(products[0, 0, 2, 1].item(), rel=1e-2)


def test_times_are_logit_normal():
    times = flow.time_of(Times(seed=1, mean=-0.8, std=0.8)(range(4000))).double()
    logits = torch.logit(times)
    assert logits.mean().item() == pytest.approx(-0.8, abs=5 * 0.8 / math.sqrt(4000))
    assert logits.std().item() == pytest.approx(0.8, rel=0.06)


def test_it_starts_as_the_identity_and_predicts_nothing():
    workload, module = jit()
    batch = batch_of(workload)
    tokens, condition, class_tokens = module.embedding(batch["images"].float(), batch["times"], batch["labels"])
    rotations = torch.ones(2, tokens.size(1), 32)
    assert torch.equal(module.blocks[0](tokens, condition, rotations), tokens)
    assert not module.head(tokens, condition).any()
    assert class_tokens.shape == (3, 4, 64)


def test_start_values_are_the_papers():
    _, module = jit(hidden_size=128, num_classes=100, num_class_tokens=16)
    for name, value in module.named_parameters():
        if name.endswith("norm.weight"):
            assert (value == 1).all(), name
        elif name.endswith("bias") or "modulation" in name or name.startswith("head"):
            assert not value.any(), name
        elif name.startswith(("embedding.time", "embedding.labels", "embedding.class")):
            assert value.std().item() == pytest.approx(0.02, rel=0.1), name
        else:
            bound = math.sqrt(6 / sum(value.shape))
            assert value.abs().max() <= bound, name
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name


def test_each_region_is_one_graph_and_blocks_have_one_for_each_number_of_tokens():
    workload, module = jit(num_layers=5, class_tokens_from=2)
    assert graphs_of(workload, module, batch_of(workload)) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_size": 66}, "66 does not divide into 2 heads"),
        ({"image_size": 18}, "does not divide into patches of 4"),
        ({"class_tokens_from": 3}, "last of 3 blocks is 2"),
        ({"noise_scale": 0}, "above 0"),
        ({"num_class_tokens": -1}, "at least 0"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        workloads.create("jit", "tiny", options)


def test_tiny_learns():
    workload, module = jit()
    source = workload.samples("synthetic", 0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for step in range(100):
        batch = source.__getitems__(range(16 * step, 16 * step + 16))
        batch["images"] = (25 * batch["labels"])[:, None, None, None].expand_as(batch["images"]).to(torch.uint8)
        loss = module(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.3 * sum(losses[:5]) / 5
