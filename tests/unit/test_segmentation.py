"""DeepLabV3 on a ResNet: published parameters, strides and dilations, loss, mean IoU, norms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scalebench import workloads
from scalebench.errors import UserError
from scalebench.theory.deeplab import resnet_layers
from scalebench.theory.layers import parameters
from scalebench.workloads.norms import BatchNorm
from tests.unit.image_batches import batch_of, built, made

RESNETS = {(3, 4, 6, 3): 25_557_032, (3, 4, 23, 3): 44_549_160}
"""torchvision's documented parameters of ResNet-50 and 101, with their classifier of 1000 classes on 2048 features."""
DEEPLABS = {"resnet50": 42_004_074, "resnet101": 60_996_202}
"""torchvision's documented parameters of DeepLabV3 with 21 classes, with an auxiliary head that is not built here."""
AUXILIARY = 1024 * 256 * 9 + 2 * 256 + 256 * 21 + 21
TORCHVISIONS_NAMES = [
    "backbone.conv1.weight",
    "backbone.bn1.running_var",
    "backbone.layer1.0.downsample.1.num_batches_tracked",
    "backbone.layer3.5.bn2.bias",
    "backbone.layer4.2.conv3.weight",
    "classifier.0.convs.0.0.weight",
    "classifier.0.convs.3.1.running_mean",
    "classifier.0.convs.4.1.weight",
    "classifier.0.convs.4.2.weight",
    "classifier.0.project.1.weight",
    "classifier.1.weight",
    "classifier.2.running_mean",
    "classifier.4.bias",
]


@pytest.mark.parametrize("blocks", RESNETS)
def test_the_backbone_is_the_published_resnet(blocks: tuple[int, ...]) -> None:
    classifier = 2048 * 1000 + 1000
    assert parameters(resnet_layers(blocks, 64, 224, 32)) + classifier == RESNETS[blocks]


def test_forward_flops_of_resnet_50_are_the_published_ones() -> None:
    layers = list(resnet_layers((3, 4, 6, 3), 64, 224, 32))
    products = sum(layer.forward_flops for layer in layers) / 2 + 2048 * 1000
    assert products == pytest.approx(4.09e9, rel=0.005)  # torchvision's GFLOPS, which count multiply-adds


@pytest.mark.parametrize("size", DEEPLABS)
@pytest.mark.parametrize("norm", ["group", "batch", "sync_batch"])
def test_parameters_are_the_published_ones(size: str, norm: str) -> None:
    workload = workloads.create("segmentation", size, {"norm": norm})
    assert workload.parameter_count() == DEEPLABS[size] - AUXILIARY


def test_names_are_torchvisions() -> None:
    with torch.device("meta"):
        module = workloads.create("segmentation", "resnet50", {"norm": "batch"}).build()
    assert set(TORCHVISIONS_NAMES) <= set(module.state_dict())
    convolutions_with_norms = 53 + 5 + 1 + 1  # backbone, branches, projection, the one after it
    assert len(module.state_dict()) == convolutions_with_norms * (1 + 5) + 2


@pytest.mark.parametrize(("stride", "dilations"), [(8, (1, 1, 2, 4)), (16, (1, 1, 1, 2)), (32, (1, 1, 1, 1))])
def test_stages_dilate_where_they_may_not_shrink(stride: int, dilations: tuple[int, ...]) -> None:
    workload = made("segmentation", output_stride=stride, image_size=64, stage3_blocks=2, stage4_blocks=2)
    module = built(workload)
    with torch.no_grad():
        assert module.backbone(torch.zeros(1, 3, 64, 64)).shape == (1, 8 * 32, 64 // stride, 64 // stride)
    last = [module.get_submodule(f"backbone.layer{stage}")[-1].conv2.dilation[0] for stage in range(1, 5)]
    assert tuple(last[2:]) == dilations[2:]
    assert workload.config.atrous_rates == (2, 4, 6)
    rates = [branch[0].dilation[0] for branch in list(module.classifier[0].convs)[1:4]]
    assert rates == [2, 4, 6]


def test_atrous_rates_are_the_papers() -> None:
    assert workloads.create("segmentation", "resnet50").config.atrous_rates == (6, 12, 18)
    assert workloads.create("segmentation", "resnet50", {"output_stride": 8}).config.atrous_rates == (12, 24, 36)


def test_ignored_pixels_count_for_nothing() -> None:
    workload = made("segmentation")
    module = built(workload).eval()
    batch = batch_of(workload, 2)
    scores = torch.nn.functional.interpolate(
        module.classifier(module.backbone(batch["images"] / 127.5 - 1)), (32, 32), mode="bilinear"
    )
    chosen = scores.log_softmax(1).gather(1, batch["masks"].clamp(max=3).unsqueeze(1)).squeeze(1)
    counts = batch["masks"] != 255
    torch.testing.assert_close(module(batch), -chosen[counts].mean(), rtol=1e-5, atol=0)
    sums = module(batch, "metrics")
    assert sums["pixels"] == counts.sum() == sums["confusion"].sum()
    nothing = {**batch, "masks": torch.full_like(batch["masks"], 255)}
    assert module(nothing) == 0
    assert math.isnan(workload.metrics(module(nothing, "metrics"))["mean_iou"])


def iou_by_sets(predicted: Tensor, masks: Tensor, classes: int) -> float:
    """Mean intersection over union with sets of pixels."""
    found = []
    for index in range(classes):
        pixels = set(map(tuple, (masks == index).nonzero().tolist()))
        guessed = set(map(tuple, ((predicted == index) & (masks != 255)).nonzero().tolist()))
        if pixels | guessed:
            found.append(len(pixels & guessed) / len(pixels | guessed))
    return sum(found) / len(found)


def test_mean_iou_is_that_of_sets_of_pixels() -> None:
    workload = made("segmentation")
    module = built(workload).eval()
    batch = batch_of(workload, 3)
    batch["masks"][batch["masks"] == 2] = 0  # a class that no mask has
    predicted = module(batch, "generate")
    assert predicted.shape == (3, 32, 32)
    found = workload.metrics(module(batch, "metrics"))
    assert found["mean_iou"] == pytest.approx(iou_by_sets(predicted, batch["masks"], 4), rel=1e-6)
    counts = batch["masks"] != 255
    assert found["pixel_accuracy"] == pytest.approx((predicted == batch["masks"])[counts].float().mean().item())


def test_batch_norm_is_torchs() -> None:
    ours, plain = BatchNorm(5), nn.BatchNorm2d(5)
    values = torch.randn(4, 5, 3, 3) * 2 + 1
    torch.testing.assert_close(ours(values), plain(values))
    torch.testing.assert_close(ours.running_var, plain.running_var)
    torch.testing.assert_close(ours.eval()(values), plain.eval()(values))


def test_batch_norm_of_one_value_is_refused_in_words() -> None:
    workload = made("segmentation", norm="batch")
    module = built(workload)
    with pytest.raises(UserError, match="--micro-batch 2"):
        module(batch_of(workload, 1))
    module.eval()(batch_of(workload, 1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "layer"}, ["layer", "group", "batch", "sync_batch"]),
        ({"output_stride": 4}, ["output_stride is 4", "8, 16 or 32"]),
        ({"image_size": 500}, ["image_size 500", "16", "496"]),
        ({"norm_groups": 48}, ["width 64", "48 groups", "norm_groups"]),
        ({"num_classes": 256}, ["num_classes is 256", "255"]),
        ({"atrous_rate": 0}, ["atrous_rate", "at least 1"]),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        workloads.create("segmentation", "resnet50", options)
    assert [word for word in words if word not in str(caught.value)] == []
