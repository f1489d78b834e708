"""The dit workload against published figures, a plain reference implementation, and its contract."""

import math
from functools import partial

import pytest
import torch

from scalebench import workloads
from scalebench.data.draws import normals
from scalebench.errors import UserError
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.construct import build_on_meta
from scalebench.workloads import ddpm
from scalebench.workloads.diffusion import grid_sinusoids, sinusoids, to_patches
from tests.unit.small_models import batch_of, built, graphs_of, moved

# Peebles & Xie 2023, table 4: millions of parameters and Gflops (multiply-adds of one forward pass) at 256 pixels.
PUBLISHED = {
    "s/8": (33, 0.36), "s/4": (33, 1.41), "s/2": (33, 6.06),
    "b/8": (131, 1.42), "b/4": (130, 5.56), "b/2": (130, 23.01),
    "l/8": (459, 5.01), "l/4": (458, 19.70), "l/2": (458, 80.71),
    "xl/8": (676, 7.39), "xl/4": (675, 29.05), "xl/2": (675, 118.64),
}  # fmt: skip

dit = partial(built, "dit")


def reference_output(state, latents, timesteps, labels, config):
    """DiT written out: einsum and softmax, no torch module; fp64."""

    def linear(x, name):
        return torch.einsum("...i,oi->...o", x, state[f"{name}.weight"]) + state[f"{name}.bias"]

    def norm(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def silu(x):
        return x / (1 + (-x).exp())

    def gelu(x):
        return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def modulation(name, parts):
        return linear(silu(condition), f"{name}.modulation.linear").unsqueeze(1).chunk(parts, -1)

    time = linear(sinusoids(timesteps, 256).double(), "embedding.time.expand")
    condition = linear(silu(time), "embedding.time.mix") + state["embedding.labels.weight"][labels]
    x = linear(to_patches(latents, config.patch_size), "embedding.patches")
    x = x + grid_sinusoids(math.isqrt(x.size(1)), x.size(2), x.device)
    registers = config.num_register_tokens
    if registers:
        x = torch.cat([state["embedding.registers"].expand(len(x), -1, -1), x], 1)
    for i in range(config.num_layers):
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation(f"blocks.{i}", 6)
        q, k, v = linear(norm(x) * (1 + scale) + shift, f"blocks.{i}.qkv").chunk(3, -1)
        q, k, v = (part.reshape(*part.shape[:2], config.num_heads, -1) for part in (q, k, v))
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.size(-1))).softmax(-1)
        attended = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
        x = x + gate * linear(attended, f"blocks.{i}.attention_output")
        up = linear(norm(x) * (1 + mlp_scale) + mlp_shift, f"blocks.{i}.mlp_input")
        x = x + mlp_gate * linear(gelu(up), f"blocks.{i}.mlp_output")
    shift, scale = modulation("head", 2)
    patches = linear(norm(x[:, registers:]) * (1 + scale) + shift, "head.output")
    p, side = config.patch_size, config.latent_size // config.patch_size
    return torch.einsum("bhwpqc->bchpwq", patches.reshape(len(x), side, side, p, p, -1)).reshape(
        len(x), -1, config.latent_size, config.latent_size
    )


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_are_the_papers(size):
    millions, gflops = PUBLISHED[size]
    workload = workloads.create("dit", size)
    positions = workload.config.num_patches * workload.config.hidden_size  # the paper counts them, though not trained
    assert (workload.parameter_count() + positions) / 1e6 == pytest.approx(millions, abs=0.6)
    assert workload.flops_per_sample() / 6 / 1e9 == pytest.approx(gflops, rel=0.01)


def test_parameters_of_xl_2_are_those_of_the_published_model():
    """By hand from the published configuration: 28 blocks, the embeddings and the last layer, fixed positions too."""
    d = 1152
    block = (3 * d * d + 3 * d) + (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d) + (6 * d * d + 6 * d)
    embeddings = (4 * 4 * d + d) + (256 * d + d) + (d * d + d) + 1001 * d + 256 * d
    last = (2 * d * d + 2 * d) + (d * 32 + 32)
    assert 28 * block + embeddings + last == 675_129_632
    assert workloads.create("dit", "xl/2").parameter_count() == 675_129_632 - 256 * d


@pytest.mark.parametrize("size", workloads.size_names("dit"))
@pytest.mark.parametrize("options", [{}, {"num_register_tokens": 4, "learn_sigma": False}])
def test_counted_parameters_are_those_of_the_module(size, options):
    workload = workloads.create("dit", size, options)
    module = build_on_meta(workload, TrainConfig())
    assert sum(parameter.numel() for parameter in module.parameters()) == workload.parameter_count()
    assert list(module.buffers()) == []


@pytest.mark.parametrize("registers", [0, 3])
def test_loss_and_gradients_equal_a_plain_reference(registers):
    torch.manual_seed(0)
    workload, module = dit(num_register_tokens=registers)
    moved(module)
    batch = batch_of(workload)
    batch["unlabelled"][1] = True
    state = {name: value.detach().double().requires_grad_() for name, value in module.named_parameters()}
    clean, steps = batch["latents"].double(), batch["times"]
    noise = normals(batch["noise_keys"], *clean.shape[1:]).double()
    schedule = ddpm.schedule_at(steps)
    labels = torch.where(batch["unlabelled"], 10, batch["labels"])
    noisy = schedule.signal * clean + schedule.noise * noise
    expected = ddpm.losses(reference_output(state, noisy, steps, labels, workload.config), clean, noise, steps).mean()
    expected.backward()
    loss = module(batch)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    for name, parameter in module.named_parameters():
        wanted = state[name].grad
        assert (parameter.grad - wanted).norm() <= 1e-3 * wanted.norm(), name


def test_it_starts_as_the_identity_and_predicts_nothing():
    workload, module = dit()
    batch = batch_of(workload)
    tokens, condition = module.embedding(batch["latents"], batch["times"], batch["labels"])
    assert torch.equal(module.blocks[0](tokens, condition), tokens)
    assert not module.head(tokens, condition).any()


def test_start_values_are_the_papers():
    _, module = dit(num_register_tokens=8, hidden_size=128, num_classes=100)
    for name, value in module.named_parameters():
        if name.endswith("bias") or "modulation" in name or name.startswith("head"):
            assert not value.any(), name
        elif name.startswith(("embedding.time", "embedding.labels", "embedding.registers")):
            assert value.std().item() == pytest.approx(0.02, rel=0.1), name
        else:
            bound = math.sqrt(6 / sum(value.shape))
            assert value.abs().max() <= bound, name
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name


def test_each_region_is_one_graph_and_all_blocks_share_theirs():
    workload, module = dit(num_layers=4)
    assert graphs_of(workload, module, batch_of(workload)) == 3


@pytest.mark.parametrize("options", [{}, {"num_register_tokens": 4, "hidden_size": 128, "num_heads": 4}])
def test_kept_activations_are_those_that_autograd_keeps(options):
    workload, module = dit(num_layers=4, latent_size=16, **options)
    samples, parameters = 4, {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = batch_of(workload, samples)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = module(batch)
    expected = samples * workload.saved_activations().bytes(compute=4, residual=4, checkpointing=False)
    assert sum(kept.values()) == pytest.approx(expected, rel=0.05)
    assert loss.requires_grad


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_size": 66, "num_heads": 3}, "66"),
        ({"hidden_size": 64, "num_heads": 3}, "num_heads, 3"),
        ({"patch_size": 3}, "does not divide into patches of 3"),
        ({"num_register_tokens": -1}, "at least 0"),
        ({"sampling_steps": 1001}, "at most 1000"),
        ({"label_dropout": 1.0}, "below 1"),
        ({"learn_sigma": 1}, "give true or false"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        workloads.create("dit", "tiny", options)


def test_tiny_learns():
    workload, module = dit()
    source = workload.samples("synthetic", 0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for step in range(150):
        batch = source.__getitems__(range(16 * step, 16 * step + 16))
        batch["latents"] = (batch["labels"] / 5 - 1)[:, None, None, None].expand_as(batch["latents"])
        loss = module(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.5 * sum(losses[:5]) / 5
