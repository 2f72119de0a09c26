"""What there is to rank, and what of a run's own file of rankings counts."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from threading import Thread

import pytest

from toolkit.data.collected import Progress, progress_of, questions_of, read_all, read_own

SAMPLES = [
    {"prompt": "p", "responses": ["a", "b", "a"]},
    {"prompt": "same", "responses": ["x", "x"]},
    {"prompt": "q", "responses": ["c", "d"]},
    {"prompt": "p", "responses": ["c", "b"]},
]


def ranking(prompt: str, answers: str, ranks: list[int], **more: object) -> dict[str, object]:
    return {"prompt": prompt, "responses": list(answers), "ranks": ranks, **more}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "label.1.jsonl"


def write(file: Path, *rows: dict[str, object]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_prompt_is_one_question_with_its_different_answers():
    found = [(q.prompt, q.answers) for q in questions_of(SAMPLES)]
    assert found == [("p", ("a", "b", "c")), ("q", ("c", "d"))]


def test_names_of_questions_hold_their_texts():
    one, other = questions_of(SAMPLES)
    again, _ = questions_of([SAMPLES[0] | {"responses": ["a", "b", "d"]}, *SAMPLES[2:]])
    assert one.name == questions_of(SAMPLES)[0].name
    assert len({one.name, other.name, again.name}) == 3


def test_a_missing_or_empty_file_holds_nothing(file):
    assert read_own(file, SAMPLES) == read_own(write(file), SAMPLES)
    assert read_own(file, SAMPLES).read.problems == []


def test_a_later_record_of_the_same_labeler_and_answers_replaces_the_earlier(file):
    write(
        file,
        ranking("p", "ab", [1, 2], labeler="ann"),
        ranking("p", "ab", [1, 2], labeler="bob"),
        ranking("p", "ba", [1, 2], labeler="ann"),
        ranking("p", "bc", [1, 2], labeler="ann"),
    )
    kept = read_own(file, SAMPLES).read.records
    assert sorted((r.line, r.labeler) for r in kept) == [(2, "bob"), (3, "ann"), (4, "ann")]


def test_records_without_a_labeler_all_count(file):
    write(file, ranking("p", "ab", [1, 2]), ranking("p", "ab", [2, 1]))
    assert len(read_own(file, SAMPLES).read.records) == 2


def test_rankings_of_what_was_collected_earlier_are_set_aside(file):
    write(
        file, ranking("gone", "ab", [1, 2]), ranking("p", "az", [1, 2]), ranking("q", "cd", [1, 1])
    )
    own = read_own(file, SAMPLES)
    assert [record.prompt for record in own.read.records] == ["q"]
    assert own.outdated == 2


def test_a_torn_last_line_is_passed_over_and_any_other_is_a_problem(file):
    whole = json.dumps(ranking("p", "ab", [1, 2])) + "\n"
    file.write_text(whole + whole[:20])
    assert read_all(file).problems == []
    assert len(read_all(file).records) == 1
    file.write_text(whole[:20] + "\n" + whole)
    (problem,) = read_all(file).problems
    assert problem.line == 1


@pytest.mark.parametrize(
    ("quorum", "total", "needed"),
    [(0.98, 200, 196), (0.98, 24, 24), (1.0, 7, 7), (0.5, 3, 2), (0.0, 9, 1), (0.07, 100, 7)],
)
def test_a_quorum_is_a_whole_number_of_prompts(quorum, total, needed):
    assert Progress(0, total).needed(quorum) == needed
    assert Progress(needed, total).suffices(quorum)
    assert not Progress(needed - 1, total).suffices(quorum)


def test_progress_counts_prompts_and_not_records(file):
    write(file, ranking("p", "ab", [1, 2], labeler="a"), ranking("p", "ab", [1, 2], labeler="b"))
    progress = progress_of(read_own(file, SAMPLES).read.records, SAMPLES)
    assert str(progress) == "1 of 2 prompts are ranked"


def test_a_reader_waits_for_who_appends(file):
    line = json.dumps(ranking("p", "ab", [1, 2])).encode() + b"\n"
    handle = os.open(file, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.write(handle, line[:20])
    found = []
    reader = Thread(target=lambda: found.append(read_all(file)))
    reader.start()
    reader.join(0.2)
    os.write(handle, line[20:])
    os.close(handle)
    reader.join()
    assert (found[0].problems, len(found[0].records)) == ([], 1)
