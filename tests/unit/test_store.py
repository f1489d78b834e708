"""The store against damaged, foreign and missing files, full disks and folders that cannot be written."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest

from scalebench.errors import UserError
from scalebench.records import store
from scalebench.records.record import Record
from scalebench.spec import RunSpec
from tests.unit.factory import make_record


@pytest.fixture
def record() -> Record:
    spec = RunSpec(
        workload="gpt", size="tiny", data="synthetic", strategy="ddp", device="cpu", world_size=2, micro_batch=4
    )
    return Record(
        spec=spec, session="s", repeat=0, order=0, status="failed", started_at="2026-01-01T00:00:00", wall_seconds=1.0
    )


def test_what_is_written_is_what_is_read(record: Record, tmp_path: Path) -> None:
    path = store.write_record(record, tmp_path / "s")
    assert store.read_record(path) == record
    assert [p.name for p in path.parent.iterdir()] == [record.file_name], "no temporary file is left"


def test_losses_that_are_no_numbers_are_read_again(tmp_path: Path) -> None:
    made = make_record()
    nowhere = made.ranks[0].model_copy(update={"losses": [math.nan] * len(made.ranks[0].losses)})
    path = store.write_record(made.model_copy(update={"ranks": [nowhere]}), tmp_path)
    found = store.read_record(path)
    assert isinstance(found, Record)
    assert all(math.isnan(loss) for loss in found.ranks[0].losses)


def test_a_record_is_never_overwritten(record: Record, tmp_path: Path) -> None:
    path = store.write_record(record, tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        store.write_record(record.model_copy(update={"wall_seconds": 2.0}), tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "not a valid record"),
        ("{", "not a valid record"),
        ("[]", "not a valid record"),
        ('{"a": 1}', "not a valid record"),
        ("\0\0\0", "not a valid record"),
    ],
)
def test_damaged_files_among_good_ones_are_listed_with_one_line(
    record: Record, tmp_path: Path, content: str, word: str
) -> None:
    good = store.write_record(record, tmp_path / "s")
    (tmp_path / "s" / "bad.json").write_text(content)
    loaded = store.load_records(tmp_path)
    assert loaded.paths == [good]
    ((path, reason),) = loaded.damaged
    assert path.name == "bad.json"
    assert word in reason
    assert "\n" not in reason


def test_a_record_cut_short_anywhere_is_never_taken_for_good(record: Record, tmp_path: Path) -> None:
    text = store.write_record(record, tmp_path).read_text().rstrip()
    cut = tmp_path / "cut.json"
    for length in range(0, len(text), 97):
        cut.write_text(text[:length])
        with pytest.raises(ValueError, match="not a valid record"):
            store.read_record(cut)


def test_another_schema_is_named(record: Record, tmp_path: Path) -> None:
    content = json.loads(record.model_dump_json()) | {"record_schema": 99}
    (tmp_path / "new.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="schema 99; this version reads 1"):
        store.read_record(tmp_path / "new.json")


def test_a_missing_folder_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scalebench run"):
        store.load_records(tmp_path / "nowhere")


def test_a_full_disk_leaves_no_half_record(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write_record(record, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"No space left.*--results DIR"):
        store.require_writable(tmp_path)


def test_a_record_that_is_being_written_is_read_by_nobody(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[store.LoadResult] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(store.load_records(tmp_path)))
    store.write_record(record, tmp_path / "s")
    assert (seen[0].records, seen[0].damaged) == ([], [])
    assert seen[-1].records == [record]


def test_a_file_in_place_of_the_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        store.require_writable(tmp_path / "results")


def test_reference_records_are_read_only_when_asked_for(record: Record, tmp_path: Path) -> None:
    own = store.write_record(record, tmp_path / "s")
    kept = store.write_record(record, tmp_path / "reference" / "some-machine" / "s")
    assert store.load_records(tmp_path).paths == [own]
    assert store.load_records(tmp_path / "reference").paths == [kept]
