"""The Frechet inception distance (Heusel et al. 2017, arXiv:1706.08500) by torchmetrics, in the features of any module.

Distances in different features cannot be compared, so a distance's name carries its extractor's and a hash of its
weights; it is called after Inception only where these are the weights that the literature's distances are made with.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalebench.adapters import resolve_name
from scalebench.adapters.importing import load_module, told
from scalebench.errors import UserError
from scalebench.recipe import Fid

INCEPTION_FEATURES = 2048
INCEPTION_SHA256 = "6726825d"
"""How the hash of pt_inception-2015-12-05-6726825d.pth begins: TensorFlow's weights of 2015, as PyTorch holds them."""
HASH_DIGITS = 8


class Distance:
    """How far what is generated is from what is real, updated batch by batch.

    Args:
        fid: what is asked. shape: channels, height and width of the pictures.
        alone: whether this rank sees all of them; else the ranks' sums are added up.

    Raises UserError where torchmetrics is missing, or where the extractor has other weights than it had before.
    """

    def __init__(self, fid: Fid, shape: torch.Size, device: torch.device, *, alone: bool = False) -> None:
        self.name = fid.metric
        options: dict[str, Any] = {"sync_on_compute": not alone}
        if is_inception(fid.extractor):
            options |= {"feature": INCEPTION_FEATURES, "feature_extractor_weights_path": fid.extractor}
        else:
            options |= {"feature": unchanged(fid), "input_img_size": tuple(shape)}
        with told(f"the extractor {fid.extractor}"):
            self._metric = load_metric()(**options).to(device)
        self._metric.orig_dtype = torch.float32  # torchmetrics learns it from pictures, and a rank may have seen none

    def update(self, real: Tensor, made: Tensor) -> None:
        """Look at pictures, uint8 (n, channels, height, width)."""
        with torch.no_grad():
            self._metric.update(real, real=True)
            self._metric.update(made, real=False)

    def value(self) -> float:
        """The distance of all that was looked at since the last time. Collective, unless alone."""
        distance = float(self._metric.compute())
        self._metric.reset()
        return distance


def asked_fid(extractor: str, samples: int | None = None) -> Fid:
    """What `--fid-extractor` names, its weights known. Raises UserError for what is no extractor."""
    load_metric()
    if is_inception(extractor):
        path = Path(extractor).resolve()
        return Fid(extractor=str(path), metric=f"fid_inception_{inception_hash(path)}", samples=samples)
    name = resolve_name(extractor)
    factory = name.rpartition(":")[2]
    if "inception" in factory.lower():
        raise UserError(
            f"the distance would be called after Inception, whose weights {factory} may not have. "
            f"Give their file, pt_inception-2015-12-05-{INCEPTION_SHA256}.pth, or name the factory after what it makes."
        )
    weights = weights_sha256(extractor_of(name))[:HASH_DIGITS]
    return Fid(extractor=name, metric=f"fid_{factory.replace('.', '_')}_{weights}", samples=samples)


def is_inception(extractor: str) -> bool:
    """Whether it is given as a file of weights."""
    return extractor.endswith(".pth")


def inception_hash(path: Path) -> str:
    """The first digits of the hash of Inception's weights. Raises UserError for any other file."""
    if not path.is_file():
        raise UserError(f"{path} does not exist. Give the file pt_inception-2015-12-05-{INCEPTION_SHA256}.pth.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(INCEPTION_SHA256):
        raise UserError(
            f"{path} does not hold Inception's weights: its SHA-256 begins with {found[:HASH_DIGITS]}, theirs with "
            f"{INCEPTION_SHA256}. Give another extractor as file.py:factory."
        )
    return found[:HASH_DIGITS]


def extractor_of(name: str) -> nn.Module:
    """What the factory `name` makes, for inference alone. Raises UserError when that is no module."""
    place, _, factory = name.rpartition(":")
    with told(f"the extractor {name}"):
        made = getattr(load_module(place), factory)()
    if not isinstance(made, nn.Module):
        raise UserError(f"the extractor {name} gives {type(made).__name__}, not a torch.nn.Module.")
    return made.eval().requires_grad_(False)


def unchanged(fid: Fid) -> nn.Module:
    """The extractor of `fid`. Raises UserError unless it has the weights that the distance is named after."""
    made = extractor_of(fid.extractor)
    if not fid.metric.endswith(weights_sha256(made)[:HASH_DIGITS]):
        raise UserError(
            f"the extractor {fid.extractor} has other weights each time. Let it seed them, or read them from a file."
        )
    return made


def weights_sha256(module: nn.Module) -> str:
    """Of names, dtypes, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_metric() -> Any:
    """torchmetrics' class. Raises UserError where it is not installed."""
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError:
        raise UserError(
            "the Frechet distance needs torchmetrics, which is missing. Type: pip install 'scalebench-suite[fid]'"
        ) from None
    return FrechetInceptionDistance
