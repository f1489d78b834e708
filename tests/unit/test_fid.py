"""The Frechet distance against its formula worked out with scipy, and what its name says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from scalebench.cli.recipes import full_name, higher
from scalebench.errors import UserError
from scalebench.recipe import Fid
from scalebench.training.fid import Distance, asked_fid, extractor_of, unchanged, weights_sha256

pytest.importorskip("torchmetrics")

EXAMPLE = Path(__file__).parents[1] / "examples" / "projection.py"
PROJECTION = f"{EXAMPLE}:projection"


def pictures(seed: int, count: int, brightest: int) -> Tensor:
    return torch.randint(brightest, (count, 3, 16, 16), generator=torch.Generator().manual_seed(seed)).byte()


def frechet(real: Tensor, made: Tensor) -> float:
    """|m - n|² + tr(A + B - 2 (A B)^1/2) of features, in fp64 (Dowson & Landau 1982)."""
    some, others = real.double().numpy(), made.double().numpy()
    a, b = np.cov(some, rowvar=False), np.cov(others, rowvar=False)
    shift = np.square(some.mean(0) - others.mean(0)).sum()
    return float(shift + np.trace(a + b - 2 * sqrtm(a @ b).real))


def test_the_distance_is_that_of_the_formula() -> None:
    fid = asked_fid(PROJECTION)
    distance = Distance(fid, torch.Size([3, 16, 16]), torch.device("cpu"))
    extractor = extractor_of(fid.extractor)
    for seed in (0, 1):  # a second time: what was looked at before is forgotten
        real, made = pictures(seed, 30, 256), pictures(seed + 10, 30, 200)
        for some, others in zip(real.split(7), made.split(7), strict=True):
            distance.update(some, others)
        assert distance.value() == pytest.approx(frechet(extractor(real), extractor(made)), rel=1e-4)


def test_the_name_says_whose_features_and_which_weights() -> None:
    fid = asked_fid(PROJECTION, 64)
    digits = weights_sha256(extractor_of(PROJECTION))[:8]
    assert (fid.metric, fid.samples) == (f"fid_projection_{digits}", 64)
    assert full_name("val_fid", fid) == full_name(fid.metric, fid) == fid.metric
    assert not higher(fid.metric)


def test_the_hash_is_of_names_and_values() -> None:
    made = extractor_of(PROJECTION)
    before = weights_sha256(made)
    assert weights_sha256(extractor_of(PROJECTION)) == before
    made.weights[0, 0] += 1e-6
    assert weights_sha256(made) != before


def test_weights_that_change_are_told() -> None:
    fid = Fid(extractor=PROJECTION, metric="fid_projection_00000000")
    with pytest.raises(UserError, match="other weights each time"):
        unchanged(fid)


def test_inception_is_only_what_has_its_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="called after Inception"):
        asked_fid(f"{EXAMPLE}:inception")
    (tmp_path / "w.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="does not hold Inception's weights"):
        asked_fid(str(tmp_path / "w.pth"))
    with pytest.raises(UserError, match="does not exist"):
        asked_fid(str(tmp_path / "missing.pth"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("projection", "names no factory"),
        (f"{EXAMPLE}:absent", "absent"),
        ("torch:zeros", "raises"),
        ("torch.nn:Parameter", "not a torch.nn.Module"),
    ],
)
def test_what_is_no_extractor_is_told(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        asked_fid(name)
