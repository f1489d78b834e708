"""The KL autoencoder: published parameters and names, loss, noise by the draw, reconstruction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import distributions

from scalebench import workloads
from scalebench.data.draws import normals
from scalebench.errors import UserError
from scalebench.workloads.vavae import psnr
from tests.unit.image_batches import batch_of, built, made

F8D4 = 83_653_863
"""Parameters of Stable Diffusion 1's autoencoder: encoder 34,163,592, decoder 49,490,179, 92 around the latents."""
PUBLISHED_NAMES = [
    "encoder.conv_in.weight",
    "encoder.down.0.block.1.norm2.weight",
    "encoder.down.3.downsample.conv.bias",
    "encoder.down.2.block.0.nin_shortcut.weight",
    "encoder.down.4.attn.1.proj_out.weight",
    "encoder.mid.attn_1.q.weight",
    "encoder.norm_out.bias",
    "decoder.up.4.attn.2.k.bias",
    "decoder.up.4.upsample.conv.weight",
    "decoder.up.0.block.2.conv2.weight",
    "decoder.conv_out.bias",
    "quant_conv.weight",
    "post_quant_conv.weight",
]


def test_parameters_are_the_published_ones() -> None:
    workload = workloads.create("vavae", "f8d4")
    with torch.device("meta"):
        module = workload.build()
    assert workload.parameter_count() == F8D4
    assert sum(parameter.numel() for parameter in module.encoder.parameters()) == 34_163_592
    assert sum(parameter.numel() for parameter in module.decoder.parameters()) == 49_490_179


def test_names_are_those_of_published_checkpoints() -> None:
    with torch.device("meta"):
        module = workloads.create("vavae", "f16d32").build()
    state = module.state_dict()
    assert set(PUBLISHED_NAMES) <= set(state)
    assert "decoder.up.0.upsample.conv.weight" not in state
    assert "encoder.down.4.downsample.conv.weight" not in state
    assert state["decoder.up.3.block.0.conv1.weight"].shape == (256, 512, 3, 3)
    assert state["encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)


@pytest.mark.parametrize(("size", "latents"), [("f8d4", (4, 8)), ("f16d16", (16, 4)), ("f16d32", (32, 4))])
def test_latents_have_the_size_that_the_name_says(size: str, latents: tuple[int, int]) -> None:
    workload = workloads.create("vavae", size, {"image_size": 64})
    with torch.device("meta"):
        mean, _ = workload.build().encode(torch.empty(1, 3, 64, 64))
    assert mean.shape == (1, latents[0], latents[1], latents[1])


def test_loss_is_error_and_weighted_divergence() -> None:
    workload = made("vavae", kl_weight=0.5)
    module = built(workload)
    batch = batch_of(workload, 3)
    images = batch["images"].double() / 127.5 - 1
    mean, log_variance = module.encode(images.float(), batch["condition"])
    posterior = distributions.Normal(mean.double(), (log_variance.double() / 2).exp())
    divergence = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0)).sum() / 3
    drawn = posterior.mean + posterior.stddev * normals(batch["noise_keys"], 4, 4, 4)
    error = (module.decode(drawn.float(), batch["condition"]) - images).abs().mean()
    expected = error + 0.5 * divergence / images[0].numel()
    torch.testing.assert_close(module(batch).double(), expected, rtol=1e-5, atol=0)


def test_evaluation_reconstructs_from_the_mean() -> None:
    workload = made("vavae")
    module = built(workload).eval()
    batch = batch_of(workload, 3)
    generated = module(batch, "generate")
    assert generated.dtype == torch.uint8
    assert generated.shape == batch["images"].shape
    assert torch.equal(generated, module({**batch, "noise_keys": batch["noise_keys"] + 9}, "generate"))
    mean, _ = module.encode(batch["images"] / 127.5 - 1, batch["condition"])
    assert torch.equal(generated, module({"latents": mean, "condition": batch["condition"]}, "generate"))
    found = workload.metrics(module(batch, "metrics"))
    decoded = module.decode(mean, batch["condition"]).clamp(-1, 1) / 2 + 0.5
    errors = (decoded - batch["images"] / 255).square().flatten(1).mean(1)
    assert found["psnr"] == pytest.approx((-10 * errors.log10()).mean().item(), rel=1e-4)


def test_psnr_of_equal_images_is_finite() -> None:
    assert psnr(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)).tolist() == pytest.approx([106.02] * 2, abs=0.01)


def test_noise_and_condition_follow_from_the_draw() -> None:
    workload = made("vavae", channels=1, num_classes=10, image_size=8)
    source = workload.samples("synthetic", seed=3)
    count = len(source)
    first, again, later = source.__getitems__([5, 7]), source.__getitems__([7]), source.__getitems__([7 + count])
    assert first["noise_keys"].shape == (2,)
    assert torch.equal(first["noise_keys"][1], again["noise_keys"][0])
    assert torch.equal(again["images"], later["images"])
    assert not torch.equal(again["noise_keys"], later["noise_keys"])
    assert first["condition"].shape == (2, 11)
    assert (first["condition"].sum(1) == 1).all()


def test_the_condition_reaches_every_residual_block() -> None:
    workload = made("vavae")
    module = built(workload)
    batch = batch_of(workload, 2)
    module(batch).backward()
    projections = [p.grad for name, p in module.named_parameters() if "temb_proj.weight" in name]
    blocks = [name for name in workload.block_names(module) if ".block" in name]
    assert len(projections) == len(blocks)
    assert all(gradient.abs().sum() > 0 for gradient in projections)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"multipliers": "1,2"}, ["1,2", "1-2-4-4"]),
        ({"image_size": 250}, ["image_size 250", "8", "248"]),
        ({"norm_groups": 24}, ["width 128", "24 groups"]),
        ({"condition_dim": 10}, ["condition_dim 10", "1000 classes"]),
        ({"kl_weight": -1}, ["kl_weight", "0 or more"]),
        ({"latent_channels": 0}, ["latent_channels", "at least 1"]),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        workloads.create("vavae", "f8d4", options)
    assert [word for word in words if word not in str(caught.value)] == []
