"""`scalebench data split` and `synth`: parts by the ratios, classes balanced, repeatable, never over anything."""

import itertools
import json
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scalebench.cli import main
from scalebench.data.folders import Listing, list_images
from scalebench.data.images import open_images
from scalebench.data.pairs import open_pairs
from scalebench.data.split import assign, quotas
from scalebench.data.synth import SHAPES
from tests.processes import python

HALVES = ["--train-ratio", "0.5", "--val-ratio", "0.5"]


def listing(names):
    return Listing(root=Path("x"), names=sorted(names), sizes=[0] * len(names))


def call(capsys, *arguments):
    """Exit code, standard output and standard error."""
    code = main.exit_code(["data", *map(str, arguments)])
    return code, *capsys.readouterr()


def split(capsys, source, target, *options):
    return call(capsys, "split", "--input-dir", source, "--output-dir", target, *options)


@pytest.fixture
def photos(tmp_path):
    """20 cats and 10 dogs, each file with its name for its content, and a file that is no image."""
    for name, count in (("cat", 20), ("dog", 10)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(count):
            (tmp_path / "photos" / name / f"{index}.jpg").write_text(f"{name}/{index}")
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def images_in(folder):
    """What is where: part to the relative names of its images."""
    return {
        part.name: {str(path.relative_to(part)) for path in part.rglob("*.jpg")}
        for part in folder.iterdir()
        if part.is_dir()
    }


@given(count=st.integers(0, 1000), shares=st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_quotas_are_the_ratios_in_whole_numbers(count, shares):
    ratios = {str(index): share / sum(shares) for index, share in enumerate(shares)}
    found = quotas(count, ratios)
    assert sum(found.values()) == count
    assert all(abs(found[part] - count * ratio) < 1 for part, ratio in ratios.items())


@given(st.integers(0, 5), st.integers(0, 40), st.integers(0, 40))
def test_the_part_of_an_image_follows_from_seed_path_and_its_own_class(seed, cats, dogs):
    ratios = {"train": 0.7, "val": 0.3}
    names = [f"cat/{index}" for index in range(cats)]
    alone = dict(zip(sorted(names), assign(listing(names), ratios, seed), strict=True))
    both = listing([*names, *(f"dog/{index}" for index in range(dogs))])
    together = dict(zip(both.names, assign(both, ratios, seed), strict=True))
    assert {name: together[name] for name in names} == alone
    assert Counter(alone.values()) == Counter(quotas(cats, ratios))


def test_parts_hold_every_image_once_and_each_class_by_the_same_shares(photos, tmp_path, capsys):
    code, out, _ = split(
        capsys, photos, tmp_path / "parts", "--train-ratio", 0.7, "--val-ratio", 0.2, "--test-ratio", 0.1
    )
    assert code == 0
    found = images_in(tmp_path / "parts")
    names = list(itertools.chain.from_iterable(found.values()))
    assert len(names) == len(set(names)) == 30
    counts = {part: Counter(name.split("/")[0] for name in found[part]) for part in ("train", "val", "test")}
    assert counts == {"train": {"cat": 14, "dog": 7}, "val": {"cat": 4, "dog": 2}, "test": {"cat": 2, "dog": 1}}
    assert all((tmp_path / "parts" / part / name).read_text() == name[:-4] for part in found for name in found[part])
    assert json.loads((tmp_path / "parts" / "split.json").read_text())["images"]["val"] == {"cat": 4, "dog": 2}
    assert "train" in out


def test_the_seed_decides_and_the_same_gives_the_same(photos, tmp_path, capsys):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        assert split(capsys, photos, tmp_path / name, "--seed", seed)[0] == 0
    one, same, other = (images_in(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other


@pytest.mark.parametrize("mode", ["copy", "link", "hardlink"])
def test_files_are_copied_or_linked(mode, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split(capsys, "photos", "deep/parts", "--mode", mode)[0] == 0
    name = min((tmp_path / "deep/parts/train/cat").iterdir())
    original = photos / "cat" / name.name
    assert name.read_text() == original.read_text()
    assert name.is_symlink() == (mode == "link")
    assert (name.stat().st_ino == original.stat().st_ino) == (mode != "copy")


def test_masks_go_with_their_images(tmp_path, capsys):
    for index in range(10):
        for part, ending in (("images", "jpg"), ("masks", "png")):
            path = tmp_path / "pairs" / part / f"{index}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert split(capsys, tmp_path / "pairs", tmp_path / "parts")[0] == 0
    for part, count in (("train", 8), ("val", 2)):
        images, masks = (sorted((tmp_path / "parts" / part / kind).iterdir()) for kind in ("images", "masks"))
        assert [path.stem for path in images] == [path.stem for path in masks]
        assert len(images) == count


def test_what_is_there_is_never_touched(photos, tmp_path, capsys):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine").write_text("mine")
    code, _, said = split(capsys, photos, tmp_path / "parts")
    assert code == 2
    assert "nothing is overwritten" in said
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["mine"]
    (tmp_path / "parts" / "mine").unlink()
    assert split(capsys, photos, tmp_path / "parts")[0] == 0, "an empty folder may be filled"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--train-ratio", "0.7"], ["0.7 (train) + 0.2 (val)", "0.9", "rather than 1"]),
        (["--val-ratio", "0.5"], ["1.3"]),
        (["--train-ratio", "nan"], ["nan"]),
        (["--train-ratio", "1.5"], ["--train-ratio", "1.5"]),
        (["--train-ratio", "most"], ["--train-ratio", "most"]),
        (["--image-extensions", "png"], ["no png files", "30 of jpg, 1 of txt"]),
        (["--image-extensions", ","], ["--image-extensions is ','", "png,jpg"]),
        (["--train-ratio", "0.99", "--val-ratio", "0.01"], ["no image would be in val", "0.01"]),
        (["--mode", "move"], ["--mode", "move"]),
        (["--seed", "-1"], ["--seed"]),
    ],
)
def test_mistakes_are_told_in_a_sentence_and_nothing_is_written(options, words, photos, tmp_path, capsys):
    code, out, said = split(capsys, photos, tmp_path / "parts", *options)
    assert (code, out) == (2, "")
    assert said.startswith("scalebench: error: ")
    assert said.count("\n") == 1
    assert [word for word in words if word not in said] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("nowhere", "parts", ["nowhere", "No such file"]),
        ("photos/cat/0.jpg", "parts", ["0.jpg", "Not a directory"]),
        ("photos", "photos/parts", ["lies in"]),
        ("photos", "photos/cat/0.jpg/parts", ["lies in"]),
        ("photos", "a file/parts", ["cannot make", "Not a directory"]),
        ("empty", "parts", ["it holds no files"]),
    ],
)
def test_folders_that_will_not_do(source, target, words, photos, tmp_path, capsys):
    (tmp_path / "a file").touch()
    (tmp_path / "empty").mkdir()
    code, _, said = split(capsys, tmp_path / source, tmp_path / target)
    assert code == 2
    assert [word for word in words if word not in said] == []
    assert "Traceback" not in said


def test_a_failure_half_way_leaves_nothing_and_can_be_repeated(photos, tmp_path, capsys):
    (photos / "dog" / "10.jpg").symlink_to("/proc/self/mem")  # is a file, and fails when it is read
    code, _, said = split(capsys, photos, tmp_path / "parts")
    assert code == 2
    assert "Nothing is left of it" in said
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    (photos / "dog" / "10.jpg").unlink()
    assert split(capsys, photos, tmp_path / "parts")[0] == 0


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_half_way_it_says_so_and_can_be_repeated(sent, code, photos, tmp_path, capsys):
    script = """
import os, sys
from scalebench.cli import main
from scalebench.data import split
split.MODES = {"copy": lambda source, target: os.kill(os.getpid(), int(sys.argv[1]))}
main.main(sys.argv[2:])
"""
    arguments = ["data", "split", "--input-dir", photos, "--output-dir", tmp_path / "parts"]
    stopped = python("-c", script, str(int(sent)), *arguments)
    assert stopped.returncode == code
    assert not (tmp_path / "parts").exists()
    if code == 130:
        assert "interrupted; nothing was written." in stopped.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert split(capsys, photos, tmp_path / "parts")[0] == 0


def test_a_class_that_is_too_small_for_every_part_is_told(photos, tmp_path, capsys):
    (photos / "cow").mkdir()
    (photos / "cow" / "0.jpg").touch()
    code, _, said = split(capsys, photos, tmp_path / "parts")
    assert code == 0
    assert "no image in val of the classes cow" in said
    for part in ("train", "val"):
        found = list_images(tmp_path / "parts" / part, ["jpg"])
        assert found.classes == ["cat", "cow", "dog"], "or a class would have another number in each part"


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_a_made_set_is_read_as_classes_and_as_pairs(extension, tmp_path, capsys):
    options = ["--classes", 2, "--per-class", 3, "--image-size", 24, "--extension", extension]
    code, out, _ = call(capsys, "synth", "--output-dir", tmp_path / "set", *options)
    assert code == 0
    assert "6 images of 2 classes" in out
    images = open_images(f"images:{tmp_path}/set/images", seed=0, image_size=24, channels=3, num_classes=2)
    assert images.__getitems__(range(6))["labels"].tolist() == [0, 0, 0, 1, 1, 1]
    pairs = open_pairs(f"pairs:{tmp_path}/set", seed=0, image_size=24, num_classes=3)
    masks = pairs.__getitems__(range(6))["masks"]
    for index, mask in enumerate(masks):
        assert set(mask.unique().tolist()) == {0, 1 + index // 3, 255}


def test_the_same_seed_makes_the_same_pixels_and_shapes_have_their_area(tmp_path, capsys):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        options = ["--classes", 5, "--per-class", 1, "--image-size", 200, "--seed", seed]
        assert call(capsys, "synth", "--output-dir", tmp_path / name, *options)[0] == 0
    for shape, corners in SHAPES.items():
        one, same, other = (
            np.asarray(Image.open(tmp_path / name / "images" / shape / "0000.png")) for name in ("one", "same", "other")
        )
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)
        mask = np.asarray(Image.open(tmp_path / "one" / "masks" / shape / "0000.png"))
        rows, columns = np.nonzero(mask)
        radius = np.hypot(rows - rows.mean(), columns - columns.mean()).max()
        count = corners or 1000
        area = count / 2 * radius**2 * np.sin(2 * np.pi / count)
        assert abs(len(rows) / area - 1) < 0.06


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", "6"], ["1 to 5", "6"]),
        (["--per-class", "0"], ["--per-class"]),
        (["--image-size", "4"], ["--image-size"]),
        (["--extension", "gif"], ["--extension"]),
    ],
)
def test_a_set_that_cannot_be_made(options, words, tmp_path, capsys):
    code, _, said = call(capsys, "synth", "--output-dir", tmp_path / "set", *options)
    assert code == 2
    assert [word for word in words if word not in said] == []
    assert not list(tmp_path.iterdir())


def test_nothing_is_made_over_what_is_there(tmp_path, capsys):
    (tmp_path / "mine").touch()
    code, _, said = call(capsys, "synth", "--output-dir", tmp_path)
    assert code == 2
    assert "nothing is overwritten" in said
