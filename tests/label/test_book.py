"""The file of rankings: whole lines, whoever writes and whatever stops them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.label.served import SAMPLES, records
from toolkit.data.collected import questions_of
from toolkit.label.book import Book, append_rows

ROW = {"prompt": "prompt 3", "responses": ["one", "two"], "ranks": [1, 2], "labeler": "ann"}
WRITER = """
import sys
from pathlib import Path
from toolkit.label.book import append_rows
for n in range(60):
    append_rows(Path(sys.argv[1]), [{"who": sys.argv[2], "n": n, "text": "x" * 5000}])
"""


def test_several_processes_append_whole_lines(tmp_path, root):
    file = tmp_path / "ranked" / "label.1.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(file), name], cwd=root)
        for name in ("a", "b", "c")
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = records(file)
    for name in ("a", "b", "c"):
        assert [row["n"] for row in found if row["who"] == name] == list(range(60))


def test_what_a_power_cut_left_of_a_line_is_cut_off(tmp_path):
    file = tmp_path / "label.1.jsonl"
    file.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW)[:30])
    append_rows(file, [ROW | {"labeler": "bob"}])
    assert [row["labeler"] for row in records(file)] == ["ann", "bob"]


def test_a_whole_last_line_without_its_end_stays(tmp_path):
    file = tmp_path / "label.1.jsonl"
    file.write_text(json.dumps(ROW))
    append_rows(file, [ROW | {"labeler": "bob"}])
    assert [row["labeler"] for row in records(file)] == ["ann", "bob"]


def test_a_full_disk_leaves_the_lines_that_were_there(tmp_path, monkeypatch):
    file = tmp_path / "label.1.jsonl"
    append_rows(file, [ROW])
    before, write = file.read_bytes(), os.pwrite

    def half(handle: int, data: bytes, place: int) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "full")
        return write(handle, data[:-30], place)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError, match="full"):
        append_rows(file, [ROW])
    assert file.read_bytes() == before


def test_a_book_sees_what_others_write(tmp_path):
    file = tmp_path / "label.1.jsonl"
    questions = questions_of(SAMPLES)
    book = Book(file, questions)
    assert not book.is_ranked(questions[3])
    append_rows(file, [ROW])
    book.refresh()
    assert book.by("ann", questions[3]).ranks == (1, 2)
    with file.open("a") as other:
        other.write('{"prompt": "prompt 4", "resp')
        other.flush()
        book.refresh()
        other.write('onses": ["one", "two"], "ranks": [1, 2], "labeler": "bob"}\n')
    book.refresh()
    assert book.by("bob", questions[4]) is not None


def test_lines_that_rank_nothing_here_are_passed_over(tmp_path):
    file = tmp_path / "label.1.jsonl"
    odd = ["nonsense", "[1]", '{"prompt": "prompt 1"}', json.dumps(ROW | {"prompt": "gone"})]
    file.write_text("\n".join([*odd, json.dumps(ROW | {"responses": ["one", "gone"]}), ""]))
    questions = questions_of(SAMPLES)
    assert not any(Book(file, questions).is_ranked(question) for question in questions)


def test_a_file_that_was_emptied_is_read_anew(tmp_path):
    file = tmp_path / "label.1.jsonl"
    append_rows(file, [ROW])
    questions = questions_of(SAMPLES)
    book = Book(file, questions)
    file.write_text("")
    book.refresh()
    assert not book.is_ranked(questions[3])


def test_a_file_that_was_edited_is_read_anew(tmp_path):
    file, edited = tmp_path / "label.1.jsonl", tmp_path / "edited"
    append_rows(file, [ROW])
    questions = questions_of(SAMPLES)
    book = Book(file, questions)
    append_rows(edited, [ROW | {"labeler": "bob", "note": "longer than it was"}])
    edited.replace(file)
    book.refresh()
    assert book.by("ann", questions[3]) is None
    assert book.by("bob", questions[3]) is not None


def test_a_group_that_the_umask_lets_write_may_rank_too(tmp_path):
    before = os.umask(0o002)
    try:
        append_rows(tmp_path / "label.1.jsonl", [ROW])
    finally:
        os.umask(before)
    assert (tmp_path / "label.1.jsonl").stat().st_mode & 0o777 == 0o664


def test_paths_are_made(tmp_path: Path):
    append_rows(tmp_path / "a" / "b.jsonl", [ROW])
    assert records(tmp_path / "a" / "b.jsonl") == [ROW]
