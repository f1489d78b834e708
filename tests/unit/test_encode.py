"""`scalebench data encode`: the encoder's own means, labels beside them, read again as data; nothing half-written."""

import hashlib
import json

import numpy as np
import pytest
import torch

from scalebench import workloads
from scalebench.cli import main
from scalebench.data.decode import decoder_of
from scalebench.data.images import open_images
from scalebench.data.latents import open_latents
from scalebench.data.synth import Synthesis, synthesise

SIZE = {"image_size": 16, "width": 8}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shapes(tmp_path):
    """The name of 3 images of each of 3 classes."""
    synthesise(Synthesis(target=tmp_path / "set", classes=3, per_class=3, image_size=20, extension="png", seed=0))
    return f"images:{tmp_path}/set/images"


def trained(path, **options):
    """A module with random weights, and the same in a checkpoint as Lightning lays it out."""
    module = workloads.create("vavae", "tiny", SIZE | options).build()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2, generator=generator)
    torch.save({"state_dict": {f"model.{name}": value for name, value in module.state_dict().items()}}, path)
    return module


def encode(capsys, tmp_path, data, *more, **options):
    settings = [word for name, value in (SIZE | options).items() for word in ("--set", f"workload.{name}={value}")]
    given = ["--checkpoint", tmp_path / "vae.ckpt", "--data", data, "--output-dir", tmp_path / "latents"]
    code = main.exit_code(["data", "encode", *map(str, [*given, *settings, *more])])
    return code, *capsys.readouterr()


@pytest.mark.parametrize(("condition_dim", "more"), [(0, ["--batch-size", "4"]), (12, ["--num-workers", "1"])])
def test_latents_are_the_encoders_means_with_their_labels(condition_dim, more, shapes, tmp_path, capsys):
    module = trained(tmp_path / "vae.ckpt", condition_dim=condition_dim).eval()
    code, out, _ = encode(capsys, tmp_path, shapes, *more, condition_dim=condition_dim)
    assert code == 0
    assert f"9 latents: --data arrays:{tmp_path}/latents" in out
    told = json.loads((tmp_path / "latents/latents.json").read_text())
    mean, deviation = (torch.tensor(told[name]).view(-1, 1, 1) for name in ("channel_mean", "channel_std"))
    latents = open_latents(f"arrays:{tmp_path}/latents", seed=0, channels=4, latent_size=8, num_classes=3)
    images = open_images(shapes, seed=0, image_size=16, channels=3)
    read, given = (source.__getitems__(range(9)) for source in (latents, images))
    assert read["labels"].tolist() == given["labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    pixels = given["images"].double() * 2 / 255 - 1
    condition = torch.eye(condition_dim)[given["labels"]].double() if condition_dim else None
    with torch.no_grad():
        expected, _ = module.double().encode(pixels, condition)
    torch.testing.assert_close(read["latents"] * deviation + mean, expected.float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(read["latents"].mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(read["latents"].std((0, 2, 3), correction=0), torch.ones(4), rtol=1e-4, atol=0)


def test_it_says_from_what_the_latents_are(shapes, tmp_path, capsys):
    trained(tmp_path / "vae.ckpt")
    assert encode(capsys, tmp_path, shapes)[0] == 0
    told = json.loads((tmp_path / "latents/latents.json").read_text())
    assert told["checkpoint_sha256"] == hashlib.sha256((tmp_path / "vae.ckpt").read_bytes()).hexdigest()
    assert (told["workload"], told["size"], told["options"]["width"]) == ("vavae", "tiny", 8)
    assert (told["data"], told["samples"]) == (shapes, 9)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--workload", "gpt"], ["unknown option", "image_size"]),
        (["--workload", "jit", "--set", "workload.hidden_size=64"], ["width"]),
        (["--workload", "vave"], ["vave", "Did you mean 'vavae'?"]),
        (["--size", "f8"], ["f8", "f8d4"]),
        (["--set", "workload.width=16"], ["not of vavae tiny", "of another shape"]),
        (["--set", "strategy.x=1"], ["--set of this command takes workload.NAME=VALUE"]),
        (["--checkpoint", "nowhere.ckpt"], ["nowhere.ckpt", "does not exist"]),
        (["--data", "stdlib"], ["does not read", "images:FOLDER"]),
        (["--data", "images:nowhere"], ["images:nowhere", "does not exist"]),
        (["--output-dir", "."], ["nothing is overwritten"]),
        (["--batch-size", "0"], ["--batch-size"]),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(more, words, shapes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(tmp_path / "vae.ckpt")
    before = sorted(path.name for path in tmp_path.iterdir())
    code, _, said = encode(capsys, tmp_path, shapes, *more)
    assert code == 2
    assert [word for word in words if word not in said] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_image_that_cannot_be_read_leaves_nothing(shapes, tmp_path, capsys):
    trained(tmp_path / "vae.ckpt")
    (tmp_path / "set/images/hexagon/0002.png").write_text("no image")
    code, _, said = encode(capsys, tmp_path, shapes, "--batch-size", 2)
    assert code == 2
    assert "hexagon/0002.png" in said
    assert not [path for path in tmp_path.iterdir() if "latents" in path.name]


def test_values_that_are_not_finite_are_refused(shapes, tmp_path, capsys):
    module = trained(tmp_path / "vae.ckpt")
    state = {name: torch.full_like(value, torch.nan) for name, value in module.state_dict().items()}
    torch.save(state, tmp_path / "vae.ckpt")
    code, _, said = encode(capsys, tmp_path, shapes)
    assert code == 2
    assert "not finite" in said


def test_a_channel_that_never_changes_stays_as_it_is(tmp_path, capsys, shapes):
    module = trained(tmp_path / "vae.ckpt")
    state = module.state_dict()
    state["quant_conv.weight"][0], state["quant_conv.bias"][0] = 0.0, 0.5
    torch.save(state, tmp_path / "vae.ckpt")
    assert encode(capsys, tmp_path, shapes)[0] == 0
    latents = np.load(tmp_path / "latents/latents.npy")
    told = json.loads((tmp_path / "latents/latents.json").read_text())
    assert np.abs(latents[:, 0]).max() < 1e-6
    assert (round(told["channel_mean"][0], 6), told["channel_std"][0]) == (0.5, 1.0)


def test_latents_are_decoded_by_what_has_made_them(tmp_path, capsys, shapes):
    module = trained(tmp_path / "vae.ckpt").eval()
    assert encode(capsys, tmp_path, shapes)[0] == 0
    data = f"arrays:{tmp_path}/latents"
    latents = open_latents(data, seed=0, channels=4, latent_size=8).__getitems__(range(9))["latents"]
    images = open_images(shapes, seed=0, image_size=16, channels=3).__getitems__(range(9))
    with torch.no_grad():
        expected = module(images, "generate")
    found = decoder_of(data)(latents)
    assert (found.int() - expected.int()).abs().max() <= 1
    trained(tmp_path / "vae.ckpt", width=16)
    assert decoder_of(data) is None
    (tmp_path / "vae.ckpt").unlink()
    assert decoder_of(data) is None
    assert decoder_of("synthetic") is None


def test_a_decoder_that_asks_for_a_class_is_left_out(tmp_path, capsys, shapes):
    trained(tmp_path / "vae.ckpt", condition_dim=12)
    assert encode(capsys, tmp_path, shapes, condition_dim=12)[0] == 0
    assert decoder_of(f"arrays:{tmp_path}/latents") is None
