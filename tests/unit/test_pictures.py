"""What is generated, as pictures and as sheets of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scalebench.errors import UserError
from scalebench.training.pictures import GAP, PICTURED, Sheets, of_classes, of_latents, pictured, sheet


def test_a_sheet_holds_every_picture_once_in_rows() -> None:
    pictures = torch.arange(6).add(10).reshape(6, 1, 1, 1).expand(6, 3, 64, 64).byte()
    made = sheet(pictures)
    assert made.shape == (3, 3 * 64 + 2 * GAP, 2 * 64 + GAP)
    corners = made[0, :: 64 + GAP, :: 64 + GAP]
    assert corners.tolist() == [[10, 11], [12, 13], [14, 15]]
    counted = {value: int((made[0] == value).sum()) for value in range(10, 16)}
    assert counted == dict.fromkeys(range(10, 16), 64 * 64)


def test_small_pictures_are_enlarged_pixel_by_pixel() -> None:
    pictures = torch.randint(256, (1, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    made = sheet(pictures)
    assert made.shape == (1, 64, 64)
    assert torch.equal(made[0, ::8, ::8], pictures[0, 0])
    assert torch.equal(made[0, 7::8, 7::8], pictures[0, 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_kept_sheet_is_read_back_as_it_was(channels: int, tmp_path: Path) -> None:
    pictures = torch.randint(256, (4, channels, 64, 64), generator=torch.Generator().manual_seed(1)).byte()
    kept = Sheets(records=tmp_path, name="samples/a").keep(pictures, 50)
    assert (kept.step, kept.samples) == (50, 4)
    read = np.asarray(Image.open(tmp_path / kept.file))
    assert np.array_equal(read.reshape(*read.shape[:2], channels), sheet(pictures).permute(1, 2, 0).numpy())


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("")
    with pytest.raises(UserError, match="samples of step 3 cannot be written"):
        Sheets(records=tmp_path, name="samples/a").keep(torch.zeros(1, 1, 8, 8).byte(), 3)


def test_classes_have_the_colours_of_pascal_voc() -> None:
    """Against its published table: aeroplane, bicycle, bird, ..., train, and void."""
    found = of_classes(torch.tensor([[[0, 1, 2, 3, 8, 15, 19, 255]]]))
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (64, 0, 0), (192, 128, 128), (128, 192, 0)]
    assert [tuple(colour) for colour in found[0, :, 0].T.tolist()] == [*expected, (255, 255, 255)]


def test_latents_are_shown_by_their_first_channels() -> None:
    latents = torch.tensor([-9.0, -3.0, 0.0, 3.0]).reshape(1, 4, 1, 1)
    assert of_latents(latents).flatten().tolist() == [0, 0, 128]
    assert of_latents(latents[:, :2]).shape == (1, 1, 1, 1)


def test_a_reconstruction_stands_beside_what_it_is_of() -> None:
    batch = {"images": torch.zeros(2, 3, 8, 8).byte()}
    shown = PICTURED["vavae"].shown(batch, torch.full((2, 3, 8, 8), 9).byte())
    assert shown.shape == (2, 3, 8, 16)
    assert (shown[..., :8].unique().item(), shown[..., 8:].unique().item()) == (0, 9)


def test_a_workload_without_pictures_is_told() -> None:
    with pytest.raises(UserError, match="gpt makes no pictures"):
        pictured("gpt", "synthetic")
