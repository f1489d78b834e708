"""The models to train. Names, sizes and options are checked here without importing torch; `create` imports it.

Usage: `workloads.create("gpt", "124m", {"dropout": 0.1})`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scalebench import adapters, data
from scalebench.errors import unknown_name
from scalebench.workloads import (
    classifier_config,
    dit_config,
    gpt_config,
    jit_config,
    llama_config,
    segmentation_config,
    vavae_config,
)
from scalebench.workloads.config import Config
from scalebench.workloads.options import Scalar, checked_options

if TYPE_CHECKING:
    from scalebench.workloads.base import Workload


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family.

    Attributes:
        target: its Workload class, `module:Class`, which is called with a size's name and a config.
        sizes: from the smallest, which a CPU can train, to the largest.
        default_micro_batch: of each size: samples per rank and forward pass when none are asked for.
        gpu_size: the size that is measured on a GPU when none is asked for; on a CPU that is the smallest.
        depth: the option that says how many equal blocks a model has; None: its depth cannot be changed.
        reads: the kinds of data it can be trained on (scalebench.data), the one that a path alone is taken for first.
        default_data: what it is trained on when nothing is asked, as a spec stores it.
    """

    target: str
    summary: str
    sizes: Mapping[str, Config]
    default_micro_batch: Mapping[str, int]
    gpu_size: str
    depth: str | None = None
    reads: tuple[str, ...]
    default_data: str = "synthetic"


@dataclass(frozen=True, kw_only=True)
class SizeInfo:
    """One row of `scalebench list`."""

    workload: str
    size: str
    parameters: int
    default_micro_batch: int
    options: Mapping[str, Scalar]


FAMILIES: dict[str, Family] = {
    "gpt": Family(
        target="scalebench.workloads.gpt:GPTWorkload",
        summary="decoder-only language model of the GPT-2/3 family, next-token cross-entropy",
        sizes=gpt_config.SIZES,
        default_micro_batch=gpt_config.DEFAULT_MICRO_BATCH,
        gpu_size="124m",
        depth="num_layers",
        reads=("text", "synthetic"),
        default_data="text:stdlib",
    ),
    "dit": Family(
        target="scalebench.workloads.dit:DiTWorkload",
        summary="diffusion transformer over an autoencoder's latents, noise and variance predicted, class-conditional",
        sizes=dit_config.SIZES,
        default_micro_batch=dit_config.DEFAULT_MICRO_BATCH,
        gpu_size="b/2",
        depth="num_layers",
        reads=("arrays", "synthetic"),
    ),
    "jit": Family(
        target="scalebench.workloads.jit:JiTWorkload",
        summary="diffusion transformer over pixels, clean image predicted, class-conditional",
        sizes=jit_config.SIZES,
        default_micro_batch=jit_config.DEFAULT_MICRO_BATCH,
        gpu_size="b/16",
        depth="num_layers",
        reads=("images", "arrays", "digits", "synthetic"),
    ),
    "llama": Family(
        target="scalebench.workloads.llama:LlamaWorkload",
        summary="decoder-only language model of the Llama family, next-token cross-entropy",
        sizes=llama_config.SIZES,
        default_micro_batch=llama_config.DEFAULT_MICRO_BATCH,
        gpu_size="1b",
        depth="num_layers",
        reads=("text", "synthetic"),
        default_data="text:stdlib",
    ),
    "classifier": Family(
        target="scalebench.workloads.classifier:ClassifierWorkload",
        summary="small image classifier, a perceptron or convolutions, cross-entropy",
        sizes=classifier_config.SIZES,
        default_micro_batch=classifier_config.DEFAULT_MICRO_BATCH,
        gpu_size="conv",
        depth="num_layers",
        reads=("images", "arrays", "digits", "synthetic"),
        default_data="digits",
    ),
    "segmentation": Family(
        target="scalebench.workloads.segmentation:SegmentationWorkload",
        summary="DeepLabV3: a class for every pixel, by an atrous pyramid on a ResNet, cross-entropy",
        sizes=segmentation_config.SIZES,
        default_micro_batch=segmentation_config.DEFAULT_MICRO_BATCH,
        gpu_size="resnet50",
        depth="stage3_blocks",
        reads=("pairs", "synthetic"),
    ),
    "vavae": Family(
        target="scalebench.workloads.vavae:VAVAEWorkload",
        summary="convolutional KL autoencoder that latent diffusion works in, reconstruction and divergence",
        sizes=vavae_config.SIZES,
        default_micro_batch=vavae_config.DEFAULT_MICRO_BATCH,
        gpu_size="f16d32",
        depth="num_res_blocks",
        reads=("images", "arrays", "digits", "synthetic"),
    ),
}


def create(name: str, size: str, options: Mapping[str, Scalar] | None = None, *, seed: int = 0) -> Workload:
    """The workload `name` at `size` with `options` changed. Raises UserError for an unknown name, size or option.

    `seed` is what the initial values of a user's own model follow from; those of other workloads come later.
    """
    if adapters.is_own(name):
        return adapters.create(name, options or {}, seed)
    config = resolve_config(name, size, options or {})
    module_name, _, class_name = _family(name).target.partition(":")
    return getattr(importlib.import_module(module_name), class_name)(size, config)  # type: ignore[no-any-return]


def resolve_options(name: str, size: str, options: Mapping[str, Scalar] | None = None) -> dict[str, Scalar]:
    """Every option of the workload with its value: the size's, changed by `options`. Raises UserError as `create`."""
    if adapters.is_own(name):
        return adapters.resolve_options(name, options or {})
    return dataclasses.asdict(resolve_config(name, size, options or {}))


def resolve_config(name: str, size: str, options: Mapping[str, Scalar]) -> Config:
    """The shape behind `size`, changed by `options` after checking their names and types."""
    base = _sized(name, size)
    return dataclasses.replace(base, **checked_options(base, options))


def size_names(name: str) -> list[str]:
    """The sizes of workload `name`, smallest first."""
    return [adapters.SIZE] if adapters.is_own(name) else list(_family(name).sizes)


def depth_option(name: str) -> str | None:
    """The option of workload `name` that makes its sizes deeper; None where none does."""
    return None if adapters.is_own(name) else _family(name).depth


def default_size(name: str, device: str) -> str:
    """The size of workload `name` that is measured on a `cuda` or `cpu` device when none is asked for."""
    if adapters.is_own(name):
        return adapters.SIZE
    return _family(name).gpu_size if device == "cuda" else size_names(name)[0]


def reads(name: str) -> tuple[str, ...]:
    """The kinds of data that workload `name` can be trained on; a path alone is of the first that has paths."""
    return tuple(data.KINDS) if adapters.is_own(name) else _family(name).reads


def default_data(name: str) -> str:
    """What workload `name` is trained on when nothing is asked, as a spec stores it."""
    return adapters.OWN_DATA if adapters.is_own(name) else _family(name).default_data


def default_micro_batch(name: str, size: str) -> int:
    """Samples per rank and forward pass when none are asked for."""
    if adapters.is_own(name):
        return adapters.DEFAULT_MICRO_BATCH
    _sized(name, size)
    return _family(name).default_micro_batch[size]


def describe() -> Iterator[SizeInfo]:
    """Every workload at every size."""
    for name, family in FAMILIES.items():
        for size, config in family.sizes.items():
            yield SizeInfo(
                workload=name,
                size=size,
                parameters=config.parameter_count,
                default_micro_batch=family.default_micro_batch[size],
                options=dataclasses.asdict(config),
            )


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise unknown_name("workload", name, FAMILIES)
    return FAMILIES[name]


def _sized(name: str, size: str) -> Config:
    sizes = _family(name).sizes
    if size not in sizes:
        raise unknown_name(f"size of {name}", size, sizes)
    return sizes[size]
