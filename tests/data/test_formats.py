"""Readers of the four kinds of file, in every format."""

from __future__ import annotations

import builtins
import gzip
import json
from pathlib import Path

import pytest

from toolkit.data.formats import (
    FileSettings,
    read_demonstrations,
    read_documents,
    read_prompts,
    read_rankings,
)
from toolkit.data.records import Record
from toolkit.spec.errors import DataError

GOOD = {"prompt": "Say hi.", "response": "Hi!"}


def settings(path: str, on_bad: str = "error", **fields: str) -> FileSettings:
    return FileSettings(path, fields, on_bad)


def test_records_keep_their_line_and_user(write) -> None:
    path = write("a.jsonl", GOOD, GOOD | {"user": 7})
    assert read_demonstrations(settings(path)).records == [
        Record(1, "Say hi.", ("Hi!",)),
        Record(2, "Say hi.", ("Hi!",), user="7"),
    ]


def test_bad_records_are_counted_when_skipped(write) -> None:
    path = write("a.jsonl", GOOD, {"prompt": "Say hi."}, {"prompt": "", "response": "Hi!"})
    found = read_demonstrations(settings(path, on_bad="skip"))
    assert (found.read, len(found.records), dict(found.dropped), found.problems) == (
        3,
        1,
        {"bad record": 2},
        [],
    )
    assert found.notes == [
        f"2 bad records skipped, the first: {path}:2  response  is missing; the record has prompt; "
        "set fields to rename a column"
    ]


def test_long_lists_of_problems_are_cut_and_counted(write) -> None:
    found = read_prompts(settings(write("a.jsonl", *[{"text": "x"}] * 30)))
    assert len(found.problems) == 21
    assert "and 10 more bad records" in str(found.problems[-1])


def test_fields_reach_into_nested_records_and_templates(write) -> None:
    rows = [
        {"instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}]},
        {"instruction": "Say hi.", "instances": [{"input": "", "output": "Hi!"}]},
    ]
    mapping = {"prompt": "{instruction}\n\n{instances.0.input}", "response": "instances.0.output"}
    found = read_demonstrations(settings(write("a.jsonl", *rows), **mapping))
    assert [record[1:3] for record in found.records] == [
        ("Add.\n\n1 2", ("3",)),
        ("Say hi.", ("Hi!",)),
    ]


def test_messages_give_prompt_and_answer(write) -> None:
    user, answer = {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}
    path = write(
        "a.jsonl", {"messages": [user, answer]}, {"messages": [user, answer, user, answer]}
    )
    one, two = read_demonstrations(settings(path)).records
    assert (one.prompt, one.responses, one.messages) == ("Hi.", ("Hello.",), (user,))
    assert two.prompt == "User: Hi.\n\nAssistant: Hello.\n\nUser: Hi."
    assert two.messages == (user, answer, user)


def test_rankings_come_k_wise_as_pairs_and_as_dialogues(write) -> None:
    path = write(
        "a.jsonl",
        {"prompt": "Q", "responses": ["a", "b", "c"], "ranks": [2, 1, 2], "labeler": "ann"},
        {"prompt": "Q", "chosen": "good", "rejected": "bad"},
        {
            "chosen": "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: Q\n\nAssistant: good",
            "rejected": "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: Q\n\nAssistant: gone",
        },
    )
    k_wise, pair, dialogue = read_rankings(settings(path)).records
    assert k_wise[1:4] == ("Q", ("a", "b", "c"), (2, 1, 2))
    assert k_wise.labeler == "ann"
    assert pair[1:4] == ("Q", ("good", "bad"), (1, 2))
    assert dialogue.prompt == "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: Q\n\nAssistant:"
    assert dialogue.responses == (" good", " gone")


@pytest.mark.parametrize("kind", ["csv", "parquet", "folder"])
def test_tables_read_as_json_lines_do(kind: str, write, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    rows = [
        {"prompt": 'Q, "1"', "responses": ["a", "b"], "ranks": [1, 1]},
        {"prompt": "7", "responses": ["\u00e9", "d"], "ranks": [2, 1]},
    ]
    expected = [record[1:] for record in read_rankings(settings(write("a.jsonl", *rows))).records]
    datasets.disable_progress_bars()
    path = str(tmp_path / f"table.{kind}")
    if kind == "csv":
        text = [
            {
                key: json.dumps(value) if isinstance(value, list) else value
                for key, value in row.items()
            }
            for row in rows
        ]
        datasets.Dataset.from_list(text).to_csv(path)
    elif kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(path)
    assert [record[1:] for record in read_rankings(settings(path)).records] == expected


def test_tables_without_datasets_name_the_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.parquet").write_text("any")
    real = builtins.__import__

    def refuse(name: str, *rest):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    (problem,) = read_prompts(settings(str(tmp_path / "a.parquet"))).problems
    assert "pip install datasets" in problem.message


def test_csv_names_the_line_of_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,response\n"two\nlines",a\nx,y,z\n1,\n')
    found = read_demonstrations(settings(str(path)))
    assert [record[:3] for record in found.records] == [(3, "two\nlines", ("a",))]
    assert [(problem.line, problem.message) for problem in found.problems] == [
        (4, "has more or fewer cells than the heading; quote cells that hold commas"),
        (5, "is empty; expected text"),
    ]


def test_compressed_files_read_the_same(write, tmp_path: Path) -> None:
    plain = Path(write("a.jsonl", GOOD))
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_prompts(settings(str(packed))).records == read_prompts(settings(str(plain))).records


def test_text_is_one_document_unless_parted_by_end_of_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n<|endoftext|>three", encoding="utf-8")
    assert [document.text for document in read_documents(settings(str(path))).records] == [
        "one\n\ntwo\n",
        "three",
    ]


def test_text_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo \xff\n")
    (problem,) = read_documents(settings(str(path))).problems
    assert (problem.line, "not UTF-8" in problem.message) == (2, True)


def test_documents_come_from_records_too(write) -> None:
    found = read_documents(settings(write("a.jsonl", {"text": "one"}, {"text": "two"})))
    assert [document.text for document in found.records] == ["one", "two"]


def test_problems_can_be_raised_as_one_error(write) -> None:
    found = read_prompts(settings(write("a.jsonl", {"text": "x"}, {"prompt": 1})))
    error = DataError(found.problems)
    assert error.exit_code == 3
    assert len(str(error).splitlines()) == 2


def test_text_packed_with_zstd_reads_the_same(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard", reason="the zstandard library is not installed")
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b"one\ntwo\n"))
    found = read_documents(settings(str(path)))
    assert ([document.text for document in found.records], found.problems) == (["one\ntwo\n"], [])
