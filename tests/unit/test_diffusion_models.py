"""What holds of both diffusion transformers: precision, metrics, samples, names."""

from __future__ import annotations

import pytest
import torch

from scalebench.strategies.config import TrainConfig
from tests.unit.small_models import batch_of, built, moved

pytestmark = pytest.mark.parametrize(
    ("name", "options"), [("dit", {"num_register_tokens": 2}), ("jit", {})], ids=["dit", "jit"]
)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-true"])
def test_loss_is_fp32_whatever_computes_it(name, options, precision):
    torch.manual_seed(0)
    workload, module = built(name, TrainConfig(precision=precision), **options)
    moved(module)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = module(batch_of(workload))
    torch.manual_seed(0)
    exact = moved(built(name, **options)[1])(batch_of(workload))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)


def test_metrics_add_up_to_the_loss(name, options):
    workload, module = built(name, **options)
    moved(module)
    parts = [module(batch_of(workload, samples), "metrics") for samples in (2, 3)]
    sums = {key: sum(part[key] for part in parts) for key in parts[0]}
    mean = (2 * module(batch_of(workload, 2)) + 3 * module(batch_of(workload, 3))) / 5
    assert workload.metrics(sums) == {"loss": pytest.approx(mean.item())}
    assert sums["samples"] == 5


def test_samples_depend_on_their_noise_and_label_alone(name, options):
    torch.manual_seed(0)
    workload, module = built(name, sampling_steps=3, **options)
    moved(module)
    batch = batch_of(workload)
    with torch.no_grad():
        together = module(batch, "generate")
        alone = module({key: value[1:2] for key, value in batch.items()}, "generate")
        batch["labels"] = (batch["labels"] + 1) % 10
        others = module(batch, "generate")
    assert together.shape == batch["latents" if name == "dit" else "images"].shape
    torch.testing.assert_close(together[1:2], alone, rtol=2e-3, atol=2e-3)
    assert not torch.allclose(together, others)


def test_no_decay_is_every_vector(name, options):
    workload, module = built(name, **options)
    vectors = {key for key, parameter in module.named_parameters() if parameter.ndim < 2}
    assert workload.no_decay_names(module) == vectors


def test_named_regions_hold_every_parameter_once(name, options):
    workload, module = built(name, **options)
    regions = [module.get_submodule(region) for region in workload.compiled_names(module)]
    held = [id(parameter) for region in regions for parameter in region.parameters()]
    assert sorted(held) == sorted(id(parameter) for parameter in module.parameters())
    assert [module.get_submodule(block) for block in workload.block_names(module)] == list(module.blocks)
