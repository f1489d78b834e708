"""Token samples: the very bytes of the text, a cache that several processes may want at once, and bad input."""

import hashlib
import multiprocessing
import os
import resource
import signal
import sysconfig
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalebench import data
from scalebench.data.cache import CHUNK_BYTES
from scalebench.data.corpus import HEADER_BYTES, cached_corpus, corpus_files, read_sha256
from scalebench.data.tokens import open_tokens, synthetic_samples, text_samples
from scalebench.errors import UserError
from tests.processes import python

TEXT = bytes(range(256)) * 3 + "tränen".encode()


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "some text.txt"
    path.write_bytes(TEXT)
    return path


def samples_of(path, cache, context_length=10):
    return text_samples(data.resolve_name(str(path)), context_length=context_length, cache=cache)


def test_sample_i_is_the_bytes_from_i_times_l(text, tmp_path):
    source = samples_of(text, tmp_path / "cache")
    assert len(source) == (len(TEXT) - 1) // 10
    batch = source.__getitems__([3, 0, len(source) - 1])
    for row, index in enumerate([3, 0, len(source) - 1]):
        window = list(TEXT[10 * index : 10 * index + 11])
        assert batch["tokens"][row].tolist() == window[:-1]
        assert batch["targets"][row].tolist() == window[1:]
    for tensor in batch.values():
        assert tensor.dtype == torch.int64
        assert tensor.is_contiguous()


@pytest.mark.parametrize("size", [11, 20, 21, 22])
def test_last_sample_needs_its_successor(size, tmp_path):
    path = tmp_path / "text"
    path.write_bytes(TEXT[:size])
    assert len(samples_of(path, tmp_path / "cache")) == (2 if size >= 21 else 1)


def test_name_and_hash_are_those_of_the_contents(text, tmp_path):
    source = samples_of(text, tmp_path / "cache")
    assert source.name == f"text:{text}"
    assert source.sha256 == hashlib.sha256(TEXT).hexdigest()


def test_a_folder_is_its_files_in_sorted_order_without_hidden_ones(tmp_path):
    corpus = tmp_path / "corpus"
    parts = {
        "b.txt": b"second",
        "a/z.txt": b"first",
        ".hidden": b"no",
        ".git/x": b"no",
        "c": os.urandom(CHUNK_BYTES + 1),
    }
    for name, content in parts.items():
        path = corpus / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    whole = b"first" + b"second" + parts["c"]
    source = samples_of(corpus, tmp_path / "cache")
    assert source.sha256 == hashlib.sha256(whole).hexdigest()
    assert source.rows.reshape(-1)[:11].tolist() == list(whole[:11])


def test_the_standard_library_is_its_sources_without_tests(tmp_path):
    files = corpus_files(data.STDLIB)
    root = Path(sysconfig.get_path("stdlib"))
    names = {str(file.relative_to(root)) for file in files}
    assert {"argparse.py", "json/decoder.py", "asyncio/tasks.py"} <= names
    assert not any("test" in Path(name).parts or "site-packages" in name for name in names)
    source = text_samples(data.STDLIB, context_length=64, cache=tmp_path)
    assert source.sha256 == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert len(source) > 50_000


def test_the_cache_is_written_once_and_anew_when_the_text_changes(text, tmp_path):
    cache = tmp_path / "cache"
    samples_of(text, cache)
    (first,) = cache.glob("*.tokens")
    before = first.stat()
    samples_of(text, cache)
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    text.write_bytes(b"changed " * 5)
    assert samples_of(text, cache).sha256 == hashlib.sha256(b"changed " * 5).hexdigest()


def test_default_cache_follows_xdg(text, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    open_tokens(f"text:{text}", seed=0, context_length=10, vocab_size=256)
    assert len(list((tmp_path / "xdg" / "scalebench").glob("*.tokens"))) == 1


def race(path, cache, start, answers):
    start.wait()
    corpus = cached_corpus([path], cache)
    answers.put((read_sha256(corpus), hashlib.sha256(corpus.read_bytes()[HEADER_BYTES:]).hexdigest()))


def test_racing_processes_all_read_the_whole_text(tmp_path):
    path, cache = tmp_path / "big", tmp_path / "cache"
    path.write_bytes(os.urandom(20 * CHUNK_BYTES + 17))
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(6), context.Queue()
    racers = [context.Process(target=race, args=(path, cache, start, answers)) for _ in range(6)]
    for racer in racers:
        racer.start()
    got = {answers.get(timeout=60) for _ in racers}
    for racer in racers:
        racer.join()
    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    assert got == {(whole, whole)}
    assert sorted(file.suffix for file in cache.iterdir()) == [".lock", ".tokens"]


def test_a_writer_killed_half_way_harms_nobody(text, tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from scalebench.data import corpus
corpus.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # everything is written but the name
corpus.cached_corpus([Path(sys.argv[1])], Path(sys.argv[2]))
"""
    cache = tmp_path / "cache"
    killed = python("-c", code, text, cache)
    assert killed.returncode == -signal.SIGKILL
    assert not list(cache.glob("*.tokens"))
    assert samples_of(text, cache).sha256 == hashlib.sha256(TEXT).hexdigest()


def test_a_full_disk_is_an_error_that_leaves_nothing_half_written(tmp_path):
    path, cache = tmp_path / "big", tmp_path / "cache"
    path.write_bytes(bytes(3 * CHUNK_BYTES))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK_BYTES, hard))
    try:
        with pytest.raises(UserError, match="XDG_CACHE_HOME"):
            cached_corpus([path], cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.suffix for file in cache.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_made_is_an_error_with_a_remedy(text, tmp_path):
    with pytest.raises(UserError, match=r"cannot write into the cache .*XDG_CACHE_HOME"):
        samples_of(text, text / "below a file")


@pytest.mark.parametrize("content", [b"", b"ten bytes!"])
def test_too_short_a_text_is_an_error_with_a_remedy(content, tmp_path):
    path = tmp_path / "short"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"holds {len(content)} bytes.* 10 tokens.*--data.*context_length"):
        samples_of(path, tmp_path / "cache")


def test_an_empty_folder_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match=r"no text in .*'stdlib'.*'synthetic'"):
        samples_of(tmp_path, tmp_path / "cache")


def test_a_file_that_cannot_be_read_is_an_error_with_a_remedy(tmp_path):
    unreadable = "/proc/self/mem"  # exists and opens for everyone, root included, and fails when read from the start
    with pytest.raises(UserError, match=r"cannot read /proc/self/mem: .*--data"):
        text_samples(f"text:{unreadable}", context_length=10, cache=tmp_path)


@pytest.mark.parametrize(
    "given", ["nowhere.txt", "", "text:", "text:nowhere", "synthetik", "~nobody-here/text", "x" * 5000, "a\0b"]
)
def test_data_that_does_not_exist_is_refused_by_name(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"does not exist.*'stdlib'.*'synthetic'"):
        data.resolve_name(given)


def test_names_of_data_resolve_to_what_a_spec_stores(text, monkeypatch):
    monkeypatch.chdir(text.parent)
    assert data.resolve_name() == data.resolve_name("stdlib") == "text:stdlib"
    assert data.resolve_name("synthetic") == "synthetic"
    resolved = data.resolve_name("some text.txt")
    assert resolved == f"text:{text}"
    assert data.resolve_name(resolved) == resolved


def test_text_needs_a_token_for_every_byte(text):
    with pytest.raises(UserError, match=r"vocab_size 255 .*synthetic"):
        open_tokens(f"text:{text}", seed=0, context_length=10, vocab_size=255)


@given(seed=st.integers(-(2**31), 2**31), indices=st.lists(st.integers(0, 31), min_size=1, max_size=8))
def test_synthetic_samples_depend_on_seed_and_index_only(seed, indices):
    one, other = (synthetic_samples(seed=seed, context_length=8, vocab_size=99, count=32) for _ in range(2))
    together = one.__getitems__(indices)
    alone = [other.__getitems__([index]) for index in indices]
    for name in ("tokens", "targets"):
        assert torch.equal(together[name], torch.cat([batch[name] for batch in alone]))
    assert torch.equal(together["tokens"][:, 1:], together["targets"][:, :-1])


def test_synthetic_tokens_fill_the_vocabulary_evenly_and_follow_the_seed():
    source = synthetic_samples(seed=1, context_length=63, vocab_size=50, count=500)
    counts = source.rows.flatten().bincount(minlength=50)
    expected = source.rows.numel() / 50
    assert ((counts - expected).square() / expected).sum() < 95  # chi-squared, 49 degrees of freedom, p about 1e-4
    assert not torch.equal(source.rows, synthetic_samples(seed=2, context_length=63, vocab_size=50, count=500).rows)
