"""Image and mask files as samples: the very pixels, one geometry, classes by folder, and files that cannot be read."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812

import scalebench.data
from scalebench import data
from scalebench.data import images
from scalebench.data.images import open_images
from scalebench.data.pairs import open_pairs
from scalebench.data.pixels import why_unreadable
from scalebench.errors import UserError

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def noise(height, width, *channels):
    return RANDOM.integers(0, 256, (height, width, *channels), dtype=np.uint8)


def opened(folder, options="", size=8, channels=3, num_classes=None):
    name = data.resolve_name(f"images:{folder}{options}")
    return open_images(name, seed=0, image_size=size, channels=channels, num_classes=num_classes)


def paired(folder, options="", size=8, num_classes=4):
    return open_pairs(data.resolve_name(f"pairs:{folder}{options}"), seed=0, image_size=size, num_classes=num_classes)


def test_images_of_the_right_size_are_their_pixels_and_classes_are_folders_in_order(tmp_path):
    pictures = {
        name: save(tmp_path / "set" / name, noise(8, 8, 3)) for name in ("dog/b.png", "cat/z/x.PNG", "cat/a.bmp")
    }
    (tmp_path / "set" / "notes.txt").write_text("no image")
    source = opened(tmp_path / "set", num_classes=2)
    batch = source.__getitems__([2, 0, 1])
    assert batch["labels"].tolist() == [1, 0, 0]
    assert batch["labels"].dtype == torch.int64
    expected = np.stack([pictures[name].transpose(2, 0, 1) for name in ("dog/b.png", "cat/a.bmp", "cat/z/x.PNG")])
    assert batch["images"].dtype == torch.uint8
    assert batch["images"].is_contiguous()
    assert np.array_equal(batch["images"].numpy(), expected)


def test_draws_count_round_and_round(tmp_path):
    for index in range(3):
        save(tmp_path / "set" / f"{index}.png", noise(8, 8, 3))
    source = opened(tmp_path / "set")
    first, later = source.__getitems__([1, 2]), source.__getitems__(torch.tensor([4, 302]))
    assert torch.equal(first["images"], later["images"])
    assert first["labels"].tolist() == [0, 0], "a flat folder has no classes"


@pytest.mark.parametrize(("height", "width"), [(24, 24), (16, 40), (50, 20), (4, 9)])
def test_the_shorter_side_is_scaled_and_the_middle_cut_out_as_torch_does_it(height, width, tmp_path):
    pixels = save(tmp_path / "set" / "x.png", noise(height, width, 3))
    short = min(height, width)
    scaled = (8 * height // short, 8 * width // short)
    whole = torch.from_numpy(pixels.transpose(2, 0, 1)).float()
    large = F.interpolate(whole[None], size=scaled, mode="bilinear", antialias=True)[0]
    top, left = (scaled[0] - 8) // 2, (scaled[1] - 8) // 2
    found = opened(tmp_path / "set").__getitems__([0])["images"][0]
    assert (found.float() - large[:, top : top + 8, left : left + 8]).abs().max() <= 1.5  # Pillow rounds each axis


def test_one_channel_is_luminance_sixteen_bits_are_cut_and_transparency_dropped(tmp_path):
    save(tmp_path / "grey" / "x.png", grey := noise(8, 8))
    assert np.array_equal(opened(tmp_path / "grey", channels=1).__getitems__([0])["images"][0, 0].numpy(), grey)
    assert np.array_equal(opened(tmp_path / "grey").__getitems__([0])["images"][0, 2].numpy(), grey)
    deep = RANDOM.integers(0, 65536, (8, 8), dtype=np.uint16)
    save(tmp_path / "deep" / "x.png", deep)
    assert np.array_equal(opened(tmp_path / "deep", channels=1).__getitems__([0])["images"][0, 0].numpy(), deep >> 8)
    save(tmp_path / "clear" / "x.png", clear := noise(8, 8, 4))
    found = opened(tmp_path / "clear").__getitems__([0])["images"][0]
    assert np.array_equal(found.numpy(), clear[..., :3].transpose(2, 0, 1))


def test_chosen_extensions_alone_are_read(tmp_path):
    for name in ("a.png", "b.bmp", "c.jpg"):
        save(tmp_path / "set" / name, noise(8, 8, 3))
    assert len(opened(tmp_path / "set")) == 3
    assert len(opened(tmp_path / "set", "?ext=png,BMP")) == 2


def test_the_hash_follows_names_and_contents_and_not_the_place(tmp_path):
    pixels = noise(8, 8, 3)
    for folder in ("one", "two", "three", "four"):
        save(tmp_path / folder / "x.bmp", pixels)
    save(tmp_path / "three" / "y.bmp", pixels)
    save(tmp_path / "four" / "x.bmp", 255 - pixels)
    assert len({(tmp_path / folder / "x.bmp").stat().st_size for folder in ("one", "four")}) == 1
    one, two, three, four = (opened(tmp_path / folder).sha256 for folder in ("one", "two", "three", "four"))
    assert one == two
    assert len({one, three, four}) == 3


def test_of_a_large_set_files_spread_evenly_over_it_are_hashed(tmp_path, monkeypatch):
    for index in range(6):
        save(tmp_path / "set" / f"{index}.bmp", noise(8, 8, 3))
    monkeypatch.setattr(images, "HASHED_BYTES", 2 * (tmp_path / "set" / "0.bmp").stat().st_size)
    whole = opened(tmp_path / "set").sha256
    save(tmp_path / "set" / "3.bmp", 255 - noise(8, 8, 3))
    assert opened(tmp_path / "set").sha256 != whole


@pytest.fixture
def damaged(tmp_path):
    """A folder of four images: good, cut short, no image at all, good."""
    for name in "abcd":
        save(tmp_path / "set" / f"{name}.jpg", noise(64, 64, 3))
    whole = (tmp_path / "set" / "b.jpg").read_bytes()
    (tmp_path / "set" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "set" / "c.jpg").write_text("no image")
    return tmp_path / "set"


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("index", "words"), [(1, ["b.jpg", "truncated"]), (2, ["c.jpg", "no image that Pillow knows"])]
)
def test_a_file_that_cannot_be_read_is_named_in_one_sentence_wherever_it_is_decoded(damaged, index, words, num_workers):
    source = opened(damaged)
    loaded = scalebench.data.loader(
        OneImage(source, index), micro_batch=1, device=torch.device("cpu"), num_workers=num_workers
    )
    with pytest.raises(UserError) as caught:
        next(loaded)
    assert [word for word in [*words, "skip_corrupt=true"] if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


class OneImage:
    """A source that has one image of another."""

    def __init__(self, source, index):
        self.source, self.index = source, index

    def __len__(self):
        return 1

    def __getitems__(self, draws):
        return self.source.__getitems__([self.index] * len(draws))


def test_unreadable_files_are_left_out_on_request_and_counted(damaged):
    source = opened(damaged, "?skip_corrupt=true")
    assert len(source) == 2
    assert "2 of 4 unreadable" in source.name
    both = source.__getitems__([0, 1])["images"]
    whole = opened(damaged)
    assert torch.equal(both, whole.__getitems__([0, 3])["images"])
    assert source.sha256 != whole.sha256


def test_a_file_that_was_mended_is_found_again(damaged):
    assert len(opened(damaged, "?skip_corrupt=true")) == 2
    save(damaged / "b.jpg", noise(64, 64, 3))
    assert len(opened(damaged, "?skip_corrupt=true")) == 3


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "gif"])
def test_no_damage_escapes_as_anything_but_a_sentence(ending, tmp_path):
    path = tmp_path / f"x.{ending}"
    save(path, noise(20, 20, 3))
    whole = path.read_bytes()
    damaged = [whole[: len(whole) * part // 12] for part in range(12)]
    places = RANDOM.integers(0, len(whole), 30)
    damaged += [whole[:place] + bytes([whole[place] ^ 0xA5]) + whole[place + 1 :] for place in places]
    for content in damaged:
        path.write_bytes(content)
        said = why_unreadable(path)
        assert said is None or (str(path) in said and "\n" not in said)


def write_nothing(folder):
    folder.mkdir()


def write_other_files(folder):
    folder.mkdir()
    for name in ("a.txt", "b.txt", "c.csv"):
        (folder / name).touch()


def write_loose_and_classes(folder):
    save(folder / "a.png", noise(8, 8, 3))
    save(folder / "cat" / "b.png", noise(8, 8, 3))


def write_three_classes(folder):
    for name in "abc":
        save(folder / name / "x.png", noise(8, 8, 3))


def write_link_to_nothing(folder):
    write_three_classes(folder)
    (folder / "a" / "y.png").symlink_to("nowhere.png")


def write_file_that_may_not_be_read(folder):
    """Opens for everyone, root included, and fails when it is read from the start."""
    folder.mkdir()
    (folder / "x.png").symlink_to("/proc/self/mem")


def write_fractions(folder):
    save(folder / "x.tif", RANDOM.random((8, 8), np.float32))


def write_parts(folder):
    write_three_classes(folder)
    (folder / "split.json").write_text("{}")


def write_broken(folder):
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")


@pytest.mark.parametrize(
    ("write", "options", "words"),
    [
        (write_nothing, "", ["no", "png", "it holds no files"]),
        (write_other_files, "", ["2 of txt, 1 of csv"]),
        (write_three_classes, "?ext=gif", ["no gif files", "3 of png"]),
        (write_loose_and_classes, "", ["1 images, such as a.png, lie beside folders"]),
        (write_three_classes, "", ["3 classes", "knows 2", "--set workload.num_classes=3"]),
        (write_link_to_nothing, "", ["a/y.png", "links to a file that is gone"]),
        (write_file_that_may_not_be_read, "", ["x.png", "Input/output error"]),
        (write_fractions, "", ["x.tif", "pixels are fractions"]),
        (write_parts, "", ["holds the parts of a split set", "Give one of them"]),
        (write_broken, "", ["cannot read the image", "a.png"]),
        (write_broken, "?skip_corrupt=true", ["none of the 2 images", "a.png"]),
    ],
)
def test_folders_that_will_not_do_are_told_before_anything_is_loaded(write, options, words, tmp_path):
    write(tmp_path / "set")
    with pytest.raises(UserError) as caught:
        opened(tmp_path / "set", options, num_classes=2)
    assert [word for word in words if word not in str(caught.value)] == []


def test_image_files_come_in_one_or_three_channels(tmp_path):
    write_three_classes(tmp_path / "set")
    with pytest.raises(UserError, match=r"1 or 3 channels, and the model takes 4"):
        opened(tmp_path / "set", channels=4)


def test_masks_go_with_their_images_in_the_same_geometry(tmp_path):
    picture = np.repeat(noise(16, 24)[..., None], 3, axis=2)
    classes = RANDOM.choice(np.array([0, 1, 3, 255], np.uint8), (16, 24))
    save(tmp_path / "set/images/a/x.jpg", picture)
    save(tmp_path / "set/masks/a/x.png", classes)
    save(tmp_path / "set/images/a/y.png", picture)
    save(tmp_path / "set/masks/a/y.bmp", classes)
    batch = paired(tmp_path / "set", size=16).__getitems__([1, 0])
    assert batch["masks"].dtype == torch.int64
    assert np.array_equal(batch["masks"].numpy(), np.stack([classes[:, 4:20]] * 2))
    assert np.array_equal(batch["images"][0].numpy(), picture[:, 4:20].transpose(2, 0, 1))
    halved = paired(tmp_path / "set", size=8).__getitems__([0])["masks"]
    assert set(halved.unique().tolist()) <= {0, 1, 3, 255}, "classes are never mixed"


def test_palette_masks_are_their_indices(tmp_path):
    save(tmp_path / "set/images/x.png", noise(8, 8, 3))
    mask = Image.fromarray(RANDOM.integers(0, 4, (8, 8), dtype=np.uint8), mode="P")
    mask.putpalette([value for colour in range(256) for value in (colour, 255 - colour, 7)])
    (tmp_path / "set/masks").mkdir()
    mask.save(tmp_path / "set/masks/x.png")
    assert np.array_equal(paired(tmp_path / "set").__getitems__([0])["masks"][0].numpy(), np.asarray(mask))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, ["no folder 'masks'"]),
        (noise(8, 9) % 4, ["9x8 pixels", "8x8", "x.png"]),
        (noise(8, 8, 3), ["holds colours (RGB)"]),
        (np.full((8, 8), 4, np.uint8), ["holds class 4", "0 to 3", "--set workload.num_classes"]),
    ],
)
def test_masks_that_do_not_fit_are_told_by_name(mask, words, tmp_path):
    save(tmp_path / "set/images/x.png", noise(8, 8, 3))
    if mask is not None:
        save(tmp_path / "set/masks/x.png", mask)
    with pytest.raises(UserError) as caught:
        paired(tmp_path / "set")
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_image_without_a_mask_is_told_by_name(tmp_path):
    for part, name in itertools.product(("images", "masks"), ("x.png", "y.png")):
        save(tmp_path / "set" / part / name, np.zeros((8, 8), np.uint8))
    (tmp_path / "set/masks/y.png").unlink()
    with pytest.raises(UserError, match=r"images/y\.png has no mask .*masks/y\.png"):
        paired(tmp_path / "set")


def test_a_pair_is_left_out_when_either_file_is_unreadable(tmp_path):
    for part, name in itertools.product(("images", "masks"), "abc"):
        save(tmp_path / "set" / part / f"{name}.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "set/masks/a.png").write_bytes(b"")
    (tmp_path / "set/images/c.png").write_bytes(b"")
    source = paired(tmp_path / "set", "?skip_corrupt=true")
    assert len(source) == 1
    assert "2 of 3 unreadable" in source.name
