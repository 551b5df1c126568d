"""The results file survives a cut-off line and refuses what is not its own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from subspan.bench.records import Journal, read_records
from subspan.errors import DataNotFoundError, InvalidInputError


def test_what_is_appended_is_read_and_the_last_line_of_a_cell_counts(tmp_path):
    path = tmp_path / "deep" / "r.jsonl"
    with Journal(path) as journal:
        journal.append({"key": "a", "status": "failed"})
        journal.append({"key": "b", "status": "ok", "acc": np.float64(0.5), "nmi": float("nan")})
        journal.append({"key": "a", "status": "ok", "acc": 1.0})
        assert journal.finished == {"a": "ok", "b": "ok"}
    found = {record["key"]: record for record in read_records(path)}
    assert found["a"] == {"format": 1, "key": "a", "status": "ok", "acc": 1.0}
    assert (found["b"]["acc"], found["b"]["nmi"]) == (0.5, None)
    assert path.read_text().count("\n") == 3


def test_a_cut_off_line_is_dropped_and_whole_lines_stay(tmp_path):
    path = tmp_path / "r.jsonl"
    with Journal(path) as journal:
        journal.append({"key": "a", "status": "ok"})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"format": 1, "key": "b", "sta')
    assert [record["key"] for record in read_records(path)] == ["a"]
    assert path.read_bytes() != whole, "reading does not write"
    with Journal(path) as journal:
        assert journal.finished == {"a": "ok"}
        assert path.read_bytes() == whole
        journal.append({"key": "b", "status": "ok"})
    assert [record["key"] for record in read_records(path)] == ["a", "b"]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"format": 2, "key": "a", "status": "ok"}', '{"format": 1}'])
def test_other_content_is_refused_and_kept(tmp_path, line):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"format": 1, "key": "a", "status": "ok"}) + "\n" + line + "\n")
    for open_file in (read_records, Journal):
        with pytest.raises(InvalidInputError, match="Line 2"):
            open_file(path)
    assert line in path.read_text()


@pytest.mark.parametrize("content", [b'{"precious": 1}', b"notes", b"  ", b"[1, 2]", b'{"format": 2, "key": "a"}'])
def test_a_file_without_a_line_break_is_not_taken_for_a_line_that_was_cut_off(tmp_path, content):
    path = tmp_path / "notes.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="choose another --out"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_first_line_that_was_cut_off_anywhere_is_dropped(tmp_path):
    path = tmp_path / "r.jsonl"
    with Journal(path) as journal:
        journal.append({"key": "a", "status": "ok"})
    line = path.read_bytes()
    for end in range(len(line)):
        path.write_bytes(line[:end])
        with Journal(path) as journal:
            assert journal.finished == {}
        assert path.read_bytes() == b""


def test_two_runs_cannot_write_one_file(tmp_path):
    path = tmp_path / "r.jsonl"
    with Journal(path), pytest.raises(InvalidInputError, match="in use"):
        Journal(path)
    with Journal(path):
        pass


def test_places_that_cannot_be_used(tmp_path):
    with pytest.raises(DataNotFoundError, match="bench run"):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(InvalidInputError, match="cannot be written"):
        Journal(tmp_path)
