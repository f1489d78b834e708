"""Samples in .npy files, made from a seed, and scikit-learn's digits."""

import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from scalebench import data
from scalebench.data.images import open_images
from scalebench.data.latents import open_latents
from scalebench.data.pairs import open_pairs
from scalebench.data.synthetic import SYNTHETIC_SAMPLES
from scalebench.errors import UserError

RANDOM = np.random.default_rng(0)
LATENTS = RANDOM.normal(size=(6, 4, 2, 2)).astype(np.float32)
LABELS = np.array([0, 2, 1, 0, 1, 2])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def latents_of(path, num_classes=3):
    return open_latents(data.resolve_name(f"arrays:{path}"), seed=0, channels=4, latent_size=2, num_classes=num_classes)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_latents_come_as_they_were_saved(dtype, tmp_path):
    np.save(tmp_path / "latents.npy", LATENTS.astype(dtype))
    np.save(tmp_path / "labels.npy", LABELS.astype(np.int32))
    source = latents_of(tmp_path)
    batch = source.__getitems__([5, 0, 7])
    assert batch["latents"].dtype == torch.float32
    assert np.array_equal(batch["latents"].numpy(), LATENTS.astype(dtype).astype(np.float32)[[5, 0, 1]])
    assert batch["labels"].tolist() == [2, 0, 2]
    contents = (tmp_path / "latents.npy").read_bytes() + (tmp_path / "labels.npy").read_bytes()
    assert source.sha256 == hashlib.sha256(contents).hexdigest()


def test_a_file_alone_is_of_one_class(tmp_path):
    np.save(tmp_path / "mine.npy", np.asfortranarray(LATENTS))
    batch = latents_of(tmp_path / "mine.npy").__getitems__([4])
    assert np.array_equal(batch["latents"][0].numpy(), LATENTS[4])
    assert batch["labels"].tolist() == [0]


def test_images_in_arrays(tmp_path):
    pixels = RANDOM.integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    source = open_images(f"arrays:{tmp_path}", seed=0, image_size=8, channels=1, num_classes=2)
    assert np.array_equal(source.__getitems__([1, 2])["images"].numpy(), pixels[1:])


def write(content, labels=LABELS):
    def write_to(folder):
        np.save(folder / "latents.npy", content, allow_pickle=True)
        np.save(folder / "labels.npy", labels)

    return write_to


def write_cut_short(folder):
    np.save(folder / "latents.npy", LATENTS)
    whole = (folder / "latents.npy").read_bytes()
    (folder / "latents.npy").write_bytes(whole[:-8])


def write_archive(folder):
    with (folder / "latents.npy").open("wb") as file:
        np.savez(file, LATENTS)


@pytest.mark.parametrize(
    ("write_to", "words"),
    [
        (lambda folder: None, ["no latents.npy"]),
        (lambda folder: (folder / "latents.npy").touch(), ["cannot read the array", "latents.npy"]),
        (lambda folder: (folder / "latents.npy").write_text("words"), ["no .npy file", "numpy.save"]),
        (write_cut_short, ["cannot read the array", "latents.npy"]),
        (write_archive, ["archive"]),
        (write(np.array([{"a": 1}] * 6, object)), ["pickled Python objects", "could run code"]),
        (write(LATENTS.astype(">f4")), [">f4", "float32"]),
        (write(LATENTS.astype(np.int64)), ["int64", "float16 or float32 or float64"]),
        (write(LATENTS[..., 0]), ["(6, 4, 2)", "(N, 4, 2, 2)"]),
        (write(np.zeros((6, 8, 2, 2), np.float32)), ["(6, 8, 2, 2)", "(N, 4, 2, 2)", "workload"]),
        (write(LATENTS[:0], LABELS[:0]), ["no samples"]),
        (write(LATENTS, LABELS[:5]), ["6 samples", "5 labels"]),
        (write(LATENTS, LABELS + 1), ["1 to 3", "0 to 2", "--set workload.num_classes=4"]),
        (write(LATENTS, LABELS - 1), ["-1 to 1"]),
        (write(LATENTS, LABELS.astype(float)), ["float64", "labels"]),
        (write(LATENTS, LABELS[:, None]), ["(6, 1)", "(N)"]),
    ],
)
def test_arrays_that_will_not_do_are_told_by_file(write_to, words, tmp_path):
    write_to(tmp_path)
    with pytest.raises(UserError) as caught:
        latents_of(tmp_path)
    assert [word for word in words if word not in str(caught.value)] == []


def synthetic_sources(seed):
    yield open_images("synthetic", seed=seed, image_size=16, channels=3, num_classes=10)
    yield open_pairs("synthetic", seed=seed, image_size=16, num_classes=5)
    yield open_latents("synthetic", seed=seed, channels=4, latent_size=8, num_classes=10)


def test_synthetic_samples_have_real_shapes_and_follow_the_seed():
    shapes = [
        {"images": (3, 16, 16), "labels": ()},
        {"images": (3, 16, 16), "masks": (16, 16)},
        {"latents": (4, 8, 8), "labels": ()},
    ]
    draws = [0, SYNTHETIC_SAMPLES - 1, SYNTHETIC_SAMPLES + 1]
    sources = zip(synthetic_sources(1), synthetic_sources(1), synthetic_sources(2), shapes, strict=True)
    for one, same, other, shape in sources:
        batch, again, different = (source.__getitems__(draws) for source in (one, same, other))
        assert {name: tuple(tensor.shape[1:]) for name, tensor in batch.items()} == shape
        assert all(torch.equal(batch[name], again[name]) for name in shape)
        assert not any(torch.equal(batch[name], different[name]) for name in shape if name != "labels")
        assert torch.equal(next(iter(one.__getitems__([1]).values()))[0], next(iter(batch.values()))[2])


def test_synthetic_values_are_spread_as_stated_and_samples_differ():
    draws = list(range(0, SYNTHETIC_SAMPLES, 16))
    images, pairs, latents = (source.__getitems__(draws) for source in synthetic_sources(3))
    assert images["images"].flatten(1).unique(dim=0).size(0) == len(draws)
    assert abs(images["images"].double().mean() - 127.5) < 1
    assert images["labels"].unique().tolist() == list(range(10))
    assert pairs["masks"].unique().tolist() == [0, 1, 2, 3, 4, 255]
    assert abs(latents["latents"].mean()) < 0.02
    assert abs(latents["latents"].std() - 1) < 0.02


def test_digits_are_scikit_learns():
    known = load_digits()
    source = open_images("digits", seed=0, image_size=8, channels=1, num_classes=10)
    batch = source.__getitems__(range(len(source)))
    assert np.array_equal(batch["labels"].numpy(), known.target)
    assert np.array_equal(batch["images"][:, 0].numpy(), np.round(known.images * 255 / 16))


def test_digits_fill_a_larger_square_in_every_channel():
    small, large = (open_images("digits", seed=0, image_size=size, channels=3) for size in (8, 32))
    few, many = small.__getitems__([5]), large.__getitems__([5])
    assert many["images"].shape == (1, 3, 32, 32)
    assert torch.equal(many["images"][:, 0], many["images"][:, 2])
    assert abs(few["images"].double().mean() - many["images"].double().mean()) < 5


def test_the_parts_of_the_digits_are_all_of_them_and_every_class_is_held_out_alike():
    train, val, everything = (
        open_images(f"digits{part}", seed=0, image_size=8, channels=1) for part in ("?part=train", "?part=val", "")
    )
    assert len(train) + len(val) == len(everything) == 1797
    rows = [source.__getitems__(range(len(source)))["images"].flatten(1) for source in (train, val)]
    assert not set(map(tuple, rows[0].tolist())) & set(map(tuple, rows[1].tolist()))
    held_out = val.__getitems__(range(len(val)))["labels"].bincount()
    assert held_out.tolist() == (np.bincount(load_digits().target) // 5).tolist()


@pytest.mark.parametrize(
    ("reader", "given"), [(open_images, "text:stdlib"), (open_pairs, "digits"), (open_latents, "digits")]
)
def test_other_kinds_are_refused(reader, given):
    shape = {open_images: {"channels": 3, "image_size": 8}, open_pairs: {"image_size": 8}}
    with pytest.raises(UserError, match=r"does not read. Give"):
        reader(given, seed=0, num_classes=3, **shape.get(reader, {"channels": 4, "latent_size": 8}))
