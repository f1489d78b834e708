"""What the image workloads have in common: counted parameters and FLOPs, names, dtypes, and that they learn."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from scalebench import workloads
from scalebench.meters.observer import FLOP_FORMULAS, dtypes
from scalebench.strategies.base import Workload
from scalebench.strategies.config import TrainConfig
from scalebench.strategies.construct import build_on_meta
from tests.unit.image_batches import SMALL, batch_of, built, made

FAMILIES = ("classifier", "segmentation", "vavae")
SIZES = [(family, size) for family in FAMILIES for size in workloads.size_names(family)]
SHAPES: list[tuple[str, str, dict[str, Any]]] = [
    ("classifier", "tiny", {}),
    ("classifier", "mlp", {"num_layers": 4, "hidden_size": 300}),
    ("classifier", "conv", {}),
    ("classifier", "conv", {"num_layers": 3, "channels": 3, "image_size": 32}),
    ("segmentation", "tiny", {}),
    ("segmentation", "resnet50", {}),
    ("segmentation", "resnet50", {"output_stride": 8, "image_size": 256}),
    ("segmentation", "resnet101", {"image_size": 320, "num_classes": 150}),
    ("vavae", "tiny", {"condition_dim": 10}),
    ("vavae", "f8d4", {"image_size": 64}),
    ("vavae", "f16d32", {}),
]


def counted_flops(workload: Any, samples: int, *, checkpointing: bool = False) -> int:
    """FLOPs of forward and backward by torch's counter, on the meta device."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module = workload.build()
        for name in workload.block_names(module) if checkpointing else ():
            block = module.get_submodule(name)
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        module(batch_of(workload, samples, device="meta")).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("family", "size"), SIZES)
def test_counted_parameters_are_those_of_the_module(family: str, size: str) -> None:
    workload = workloads.create(family, size)
    assert isinstance(workload, Workload)
    module = build_on_meta(workload, TrainConfig())
    assert sum(parameter.numel() for parameter in module.parameters()) == workload.parameter_count()


@pytest.mark.parametrize(("family", "size", "options"), SHAPES)
def test_formula_of_flops_agrees_with_torchs_counter(family: str, size: str, options: dict[str, Any]) -> None:
    workload = workloads.create(family, size, options)
    assert counted_flops(workload, 2) == pytest.approx(2 * workload.flops_per_sample(), rel=0.02)


@pytest.mark.parametrize(("family", "size", "options"), SHAPES)
def test_formula_with_checkpointing_agrees_with_torchs_counter(family: str, size: str, options: dict[str, Any]) -> None:
    workload = workloads.create(family, size, options)
    hardware = workload.flops_per_sample() + workload.recomputed_flops_per_sample()
    assert workload.recomputed_flops_per_sample() > 0.05 * workload.flops_per_sample()
    assert counted_flops(workload, 2, checkpointing=True) == pytest.approx(2 * hardware, rel=0.02)


@pytest.mark.parametrize("name", SMALL)
def test_no_decay_is_every_vector(name: str) -> None:
    workload = made(name)
    module = built(workload)
    vectors = {name for name, parameter in module.named_parameters() if parameter.ndim < 2}
    assert workload.no_decay_names(module) == vectors


@pytest.mark.parametrize("name", SMALL)
def test_named_blocks_and_regions_are_apart(name: str) -> None:
    workload = made(name)
    module = built(workload)
    for names in (workload.block_names(module), workload.compiled_names(module)):
        held = [id(p) for each in names for p in module.get_submodule(each).parameters()]
        assert held
        assert len(held) == len(set(held))
    assert set(workload.block_names(module)) <= set(workload.compiled_names(module))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-true"])
@pytest.mark.parametrize("name", SMALL)
def test_loss_is_fp32_whatever_computes_it(name: str, precision: str) -> None:
    workload = made(name)
    module = built(workload, TrainConfig(precision=precision))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = module(batch_of(workload, 2))
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())
    exact = built(workload)(batch_of(workload, 2)).item()
    assert loss.item() == pytest.approx(exact, rel=0.05)


class Products(TorchDispatchMode):
    """The dtypes of the operands of matrix products, convolutions and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "overloadpacket", None) in FLOP_FORMULAS:
            self.seen.add(dtypes(args)[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("precision", ["bf16", "bf16-true"])
def test_every_product_is_in_the_precision_asked_for(name: str, precision: str) -> None:
    workload = made(name)
    module = built(workload, TrainConfig(precision=precision))
    with Products() as products:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = module(batch_of(workload, 2))
        loss.backward()
    assert products.seen == {"bfloat16"}


@pytest.mark.parametrize("name", SMALL)
def test_metrics_of_parts_are_those_of_the_whole(name: str) -> None:
    workload = made(name)
    module = built(workload).eval()
    batch = batch_of(workload, 5)
    parts = [module({key: value[rows] for key, value in batch.items()}, "metrics") for rows in (slice(2), slice(2, 5))]
    added = workload.metrics({key: parts[0][key] + parts[1][key] for key in parts[0]})
    assert added == pytest.approx(workload.metrics(module(batch, "metrics")), rel=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_it_learns_a_batch_by_heart(name: str) -> None:
    workload = made(name)
    module = built(workload)
    batch = batch_of(workload, 4)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = module(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
