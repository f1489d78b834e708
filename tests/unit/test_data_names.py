"""What data are called: resolved without torch, told in a sentence when it is not there or not what it should be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebench import data
from scalebench.data.names import KINDS, parse
from scalebench.errors import UserError
from tests.processes import printed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "a=b", "what?", "stdlib", "x?y"):
        (tmp_path / name).mkdir()
    (tmp_path / "latents.npy").touch()
    return tmp_path


def test_a_resolved_name_has_an_absolute_path_and_options_in_order(folder):
    resolved = data.resolve_name("images:photos?skip_corrupt=true&ext=.PNG,jpg")
    assert resolved == f"images:{folder}/photos?ext=jpg,png&skip_corrupt=true"
    assert data.resolve_name(resolved) == resolved
    name = parse(resolved)
    assert (name.kind, name.path, name.extensions, name.skip_corrupt) == (
        "images",
        f"{folder}/photos",
        ("jpg", "png"),
        True,
    )


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("synthetic", "synthetic"),
        ("digits", "digits"),
        ("digits?part=val", "digits?part=val"),
        ("stdlib", "text:stdlib"),
        ("./stdlib", "text:{0}/stdlib"),
        ("images:photos?skip_corrupt=false", "images:{0}/photos"),
        ("images:a=b", "images:{0}/a=b"),
        ("images:what?", "images:{0}/what?"),
        ("images:x?y", "images:{0}/x?y"),
        ("images:x?y?ext=png", "images:{0}/x?y?ext=png"),
        ("text:what?", "text:{0}/what?"),
        ("arrays:latents.npy", "arrays:{0}/latents.npy"),
        ("pairs:photos/../photos", "pairs:{0}/photos"),
    ],
)
def test_each_kind_resolves_to_what_a_spec_stores(given, resolved, folder):
    assert data.resolve_name(given) == resolved.format(folder)
    assert data.resolve_name(data.resolve_name(given)) == resolved.format(folder)
    assert str(parse(resolved.format(folder))) == resolved.format(folder)


def test_a_path_alone_is_of_the_first_kind_with_paths_that_the_workload_reads(folder):
    assert data.resolve_name("photos", ("images", "synthetic")) == f"images:{folder}/photos"
    assert data.resolve_name("latents.npy", ("arrays",)) == f"arrays:{folder}/latents.npy"


@pytest.mark.parametrize(
    ("given", "reads", "words"),
    [
        ("images:nowhere", ("images",), ["'images:nowhere' does not exist", "images:FOLDER"]),
        ("images:", ("images",), ["does not exist"]),
        ("images:latents.npy", ("images",), ["is not a folder", "images:FOLDER"]),
        ("digits:photos", ("images", "digits"), ["does not exist", "'digits'"]),
        ("images:photos?exts=png", ("images",), ["exts", "Did you mean 'ext'?", "skip_corrupt"]),
        ("images:photos?ext=", ("images",), ["ext is ''", "png,jpg"]),
        ("images:photos?ext=p/g", ("images",), ["ext is 'p/g'", "png,jpg"]),
        ("images:photos?skip_corrupt=yes", ("images",), ["skip_corrupt is 'yes'", "true or false"]),
        ("digits?part=test", ("digits",), ["part is 'test'", "train or val"]),
        ("digits", ("text", "synthetic"), ["'digits'", "does not read", "'stdlib'", "'synthetic'"]),
        ("text:stdlib", ("images", "digits"), ["does not read", "images:FOLDER", "'digits'"]),
    ],
)
def test_mistakes_are_told_with_what_is_allowed(given, reads, words, folder):
    with pytest.raises(UserError) as caught:
        data.resolve_name(given, reads)
    assert [word for word in words if word not in str(caught.value)] == []


@given(
    st.one_of(st.text(max_size=12), st.sampled_from(sorted(KINDS)).flatmap(lambda kind: st.text().map(kind.__add__)))
)
def test_whatever_is_given_resolves_for_good_or_is_refused(given):
    try:
        resolved = data.resolve_name(given)
    except UserError:
        return
    assert data.resolve_name(resolved) == resolved


def test_names_need_neither_torch_nor_what_reads_images():
    code = """
import sys
from scalebench import data
import scalebench.data.folders, scalebench.data.split, scalebench.cli.data
data.resolve_name("digits"), data.resolve_name("synthetic")
assert not {"torch", "PIL", "sklearn"} & set(sys.modules), sys.modules.keys()
"""
    printed("-c", code)
