"""Tuning records: kept as readable files, used only where they are whole, ours and about what was asked."""

import json
import os

import pytest

from rlx.runtime import tuning_records
from rlx.runtime.tuning_records import SUFFIX, TuningRecords

PARTS = {"kernel": "matmul 1x2x3", "processor": "one", "threads": "2"}
RECORD = {"best": {"rows": 4}, "measured": [{"seconds": 0.5}]}


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def file(directory):
    TuningRecords(directory).keep(PARTS, RECORD)
    (path,) = directory.glob(f"*{SUFFIX}")
    return path


def test_what_was_kept_is_found_by_another_process_and_is_readable_json(directory, file):
    assert TuningRecords(directory).find(PARTS) == RECORD
    assert json.loads(file.read_text())["parts"] == PARTS


@pytest.mark.parametrize("part", PARTS)
def test_a_record_of_other_parts_is_not_found(directory, file, part):
    assert TuningRecords(directory).find({**PARTS, part: "another"}) is None


def test_without_a_directory_records_live_as_long_as_the_object():
    records = TuningRecords(None)
    records.keep(PARTS, RECORD)
    assert records.find(PARTS) == RECORD
    assert TuningRecords(None).find(PARTS) is None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[:-20], "line"),
        (lambda text: "\0" + text[1:], "Expecting value"),
        (lambda text: "[]", "not a"),
        (lambda text: text.replace("record 1", "record 0"), "not a"),
        (lambda text: text.replace('"processor": "one"', '"processor": "two"'), "another kernel or machine"),
        (lambda text: text.replace('"record": {', '"other": {'), "no record"),
    ],
)
def test_a_damaged_or_foreign_file_counts_as_absent_and_the_reason_is_kept(directory, file, damage, reason):
    file.write_text(damage(file.read_text()))
    records = TuningRecords(directory)
    assert records.find(PARTS) is None
    assert reason in records.refused[file.name]


def test_a_file_that_is_no_text_counts_as_absent(directory, file):
    file.write_bytes(b"\xff\xfe\xfa" * 10)
    assert TuningRecords(directory).find(PARTS) is None


def test_a_file_that_others_may_write_counts_as_absent(directory, file):
    file.chmod(0o666)
    records = TuningRecords(directory)
    assert records.find(PARTS) is None
    assert "other users may write" in records.refused[file.name]


def test_a_directory_that_cannot_be_made_costs_measuring_again_and_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    records = TuningRecords(tmp_path / "file" / "cache")
    records.keep(PARTS, RECORD)
    assert records.find(PARTS) == RECORD
    assert TuningRecords(tmp_path / "file" / "cache").find(PARTS) is None


def test_the_oldest_records_go_when_there_are_too_many(directory, monkeypatch):
    monkeypatch.setattr(tuning_records, "MOST", 3)
    records = TuningRecords(directory)
    for age, threads in enumerate("12345"):
        records.keep({**PARTS, "threads": threads}, RECORD)
        newest = max(directory.iterdir(), key=lambda p: p.stat().st_ctime_ns)
        os.utime(newest, (1000 + age, 1000 + age))
    fresh = TuningRecords(directory)
    assert [t for t in "12345" if fresh.find({**PARTS, "threads": t})] == ["3", "4", "5"]
