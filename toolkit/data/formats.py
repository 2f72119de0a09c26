"""Records of the four kinds of data file, each checked, with file and line in every message.

    demonstrations   {"prompt", "response"}, or {"messages": [{role, content}...]} that end with
                     the assistant
    prompts          {"prompt"}, or {"messages"} that end with the user
    rankings         {"prompt", "responses", "ranks"}: 1 is best, equal numbers tie, and only their
                     order counts: ranks may have gaps
                     {"prompt", "chosen", "rejected"}: a pair
                     {"chosen", "rejected"}: dialogues that share a prefix up to "Assistant:"
    pretrain         .txt, .txt.zst: documents parted by <|endoftext|>; or records with "text"

Optional: user (splits); of rankings labeler, and one entry per answer in each of ratings (1 to 7),
metadata ({quality: 1 to 7, any flag: true or false}) and source. Other columns are ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from toolkit.data.fields import FieldError, check_names, map_fields
from toolkit.data.records import (
    DEMONSTRATION_FIELDS,
    DOCUMENT_FIELDS,
    PROMPT_FIELDS,
    RANKING_FIELDS,
    Document,
    Record,
    parse_collected_ranking,
    parse_demonstration,
    parse_document,
    parse_prompt,
    parse_ranking,
)
from toolkit.data.rows import format_of, read_rows, read_text
from toolkit.data.tasks.base import EOS
from toolkit.spec.errors import DataError, Problem

BAD = "bad record"
_SHOWN = 20
_SKIP = "; on_bad: skip drops and counts them"

T = TypeVar("T", Record, Document)


@dataclass
class Read(Generic[T]):
    """What a file held.

    Args:
        file: its name.
        records: the good ones, in order.
        read: records seen, good or bad.
        dropped: rule -> how many records it dropped.
        problems: why the run cannot use the file; empty with `on_bad: skip` unless nothing is left.
        notes: sentences about what was dropped.
    """

    file: str
    records: list[T] = field(default_factory=list)
    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class FileSettings(NamedTuple):
    """`data.<kind>` of a spec: see `toolkit.spec.schema.DataFile`.

    `settable`: the spec has `fields` and `on_bad` for this file, and errors may point to them.
    """

    path: str
    fields: Mapping[str, str]
    on_bad: str
    settable: bool = True


def read_demonstrations(file: FileSettings) -> Read[Record]:
    """Read prompts with the answer a labeler wrote."""
    return _read(file, "demonstrations", DEMONSTRATION_FIELDS, parse_demonstration)


def read_prompts(file: FileSettings) -> Read[Record]:
    """Read prompts."""
    return _read(file, "prompts", PROMPT_FIELDS, parse_prompt)


def read_rankings(file: FileSettings) -> Read[Record]:
    """Read prompts with K ranked answers, or pairs."""
    return _read(file, "rankings", RANKING_FIELDS, parse_ranking)


def read_collected_rankings(path: str) -> Read[Record]:
    """Read `label.file`: rankings of answers that a model gave, which may be empty."""
    file = FileSettings(path, {}, "stop", settable=False)
    return _read(file, "rankings", RANKING_FIELDS, parse_collected_ranking)


def read_documents(file: FileSettings) -> Read[Document]:
    """Read pretraining text; a .txt file is one document, or several parted by <|endoftext|>."""
    if not Path(file.path).is_dir() and format_of(Path(file.path)) in (".txt", ""):
        found: Read[Document] = Read(file.path)
        try:
            parts = [part for part in read_text(file.path).split(EOS) if part.strip()]
        except DataError as error:
            found.problems += error.problems
            return found
        found.records = [Document(0, part) for part in parts]
        found.read = len(parts)
        return found
    return _read(file, "documents", DOCUMENT_FIELDS, parse_document)


def _read(
    file: FileSettings, kind: str, known: tuple[str, ...], parse: Callable[[int, dict[str, Any]], T]
) -> Read[T]:
    found: Read[T] = Read(file.path)
    bad: list[Problem] = []
    try:
        check_names(file.path, file.fields, known, kind)
        for row in read_rows(file.path):
            found.read += 1
            problem = row.problem
            if row.value is not None:
                try:
                    found.records.append(parse(row.line, map_fields(row.value, file.fields)))
                except FieldError as error:
                    message = f"{error}{error.fix if file.settable else ''}"
                    problem = Problem(file.path, row.line, 0, error.field, message)
            if problem is not None:
                bad.append(problem)
    except DataError as error:
        found.problems += error.problems
    _settle(found, file, kind, bad)
    return found


def _settle(found: Read[Any], file: FileSettings, kind: str, bad: list[Problem]) -> None:
    """Turn bad records into problems, or count them with `on_bad: skip`."""
    if bad and file.on_bad == "skip":
        found.dropped[BAD] = len(bad)
        found.notes.append(f"{len(bad)} bad records skipped, the first: {bad[0]}")
    else:
        found.problems += shorten(bad, _SKIP if file.settable else "")
    if not found.records and not found.problems:
        text = f"holds no usable record of {found.read}" if found.read else "holds no record"
        found.problems.append(Problem(file.path, 0, 0, "", f"{text}; expected {kind}"))


def shorten(problems: list[Problem], fix: str = _SKIP) -> list[Problem]:
    """Keep the first problems of a file, and say how many more there are."""
    if len(problems) <= _SHOWN:
        return problems
    rest = len(problems) - _SHOWN
    last = problems[_SHOWN - 1]
    more = Problem(last.file, 0, 0, "", f"and {rest} more bad records{fix}")
    return [*problems[:_SHOWN], more]


def settings_of(file: Any) -> FileSettings:
    """Return the part of a spec's `DataFile` that reading needs."""
    return FileSettings(file.path, file.fields, file.on_bad)
