"""What a stage writes as JSON Lines comes back as it was, whatever the texts hold."""

from __future__ import annotations

from toolkit.data.lines import read_records, write_records

TEXTS = ["", "two\nlines\r\n", "\u2028 and \x85 end no line", "caf\u00e9 \U0001f600", '"quoted" \\']


def test_a_line_is_a_record_and_comes_back(tmp_path):
    file = tmp_path / "records.jsonl"
    records = [{"prompt": text, "responses_ids": [[1, 2], []], "ranks": [1.5]} for text in TEXTS]
    write_records(file, iter(records))
    assert file.read_bytes().count(b"\n") == len(TEXTS)
    assert read_records(file) == records


def test_text_that_is_not_escaped_is_read_as_utf_8(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_bytes('{"prompt": "caf\u00e9\u2028"}\n'.encode())
    assert read_records(file) == [{"prompt": "caf\u00e9\u2028"}]
