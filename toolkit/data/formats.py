"""Records of the four kinds of data file, each checked, with file and line in every message.

    demonstrations   {"prompt", "response"}, or {"messages": [{role, content}...]} that end with the assistant
    prompts          {"prompt"}, or {"messages"} that end with the user
    rankings         {"prompt", "responses", "ranks"}: 1 is best, equal numbers tie
                     {"prompt", "chosen", "rejected"}: a pair;  or two whole dialogues that share a prefix ending in "Assistant:"
    pretrain         .txt, .txt.zst: documents parted by <|endoftext|>; or records with "text"

Optional: user (splits), labeler. Other columns are ignored.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from toolkit.data.fields import FieldError, check_names, map_fields, suggest
from toolkit.data.rows import describe, format_of, read_rows, read_text
from toolkit.data.tasks.base import EOS
from toolkit.data.template import Message
from toolkit.spec.errors import DataError, Problem

ASSISTANT = "\n\nAssistant:"
BAD = "bad record"
_SHOWN = 20

DEMONSTRATION_FIELDS = ("prompt", "response", "messages", "user")
PROMPT_FIELDS = ("prompt", "messages", "user")
RANKING_FIELDS = (
    "prompt",
    "responses",
    "ranks",
    "chosen",
    "rejected",
    "labeler",
    "seconds",
    "user",
)
DOCUMENT_FIELDS = ("text",)


class Record(NamedTuple):
    """A prompt with what belongs to it.

    Args:
        line: where it stands in its file; 0 for a task's.
        prompt: the raw prompt, not yet templated.
        responses: none for a prompt, one for a demonstration, K for a ranking.
        ranks: rank of each response, 1 is best; empty unless a ranking.
        user: whose it is, or None.
        labeler: who ranked, or None.
        messages: the conversation up to the response, for chat templates, or None.
    """

    line: int
    prompt: str
    responses: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    user: str | None = None
    labeler: str | None = None
    messages: tuple[Message, ...] | None = None


class Document(NamedTuple):
    """A piece of pretraining text."""

    line: int
    text: str


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
    """`data.<kind>` of a spec: see `toolkit.spec.schema.DataFile`."""

    path: str
    fields: Mapping[str, str]
    on_bad: str


def read_demonstrations(file: FileSettings) -> Read[Record]:
    """Read prompts with the answer a labeler wrote."""
    return _read(file, "demonstrations", DEMONSTRATION_FIELDS, parse_demonstration)


def read_prompts(file: FileSettings) -> Read[Record]:
    """Read prompts."""
    return _read(file, "prompts", PROMPT_FIELDS, parse_prompt)


def read_rankings(file: FileSettings) -> Read[Record]:
    """Read prompts with K ranked answers, or pairs."""
    return _read(file, "rankings", RANKING_FIELDS, parse_ranking)


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
                    problem = Problem(file.path, row.line, 0, error.field, str(error))
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
        found.problems += shorten(bad)
    if not found.records and not found.problems:
        text = f"holds no usable record of {found.read}" if found.read else "holds no record"
        found.problems.append(Problem(file.path, 0, 0, "", f"{text}; expected {kind}"))


def shorten(problems: list[Problem]) -> list[Problem]:
    """Keep the first problems of a file, and say how many more there are."""
    if len(problems) <= _SHOWN:
        return problems
    rest = len(problems) - _SHOWN
    last = problems[_SHOWN - 1]
    more = Problem(
        last.file, 0, 0, "", f"and {rest} more bad records; on_bad: skip drops and counts them"
    )
    return [*problems[:_SHOWN], more]


def parse_demonstration(line: int, row: dict[str, Any]) -> Record:
    """Check one demonstration.

    Raises:
        FieldError: a field is missing, empty, or of the wrong type.
    """
    if "messages" in row and "prompt" not in row:
        *before, last = _messages(row)
        if last["role"] != "assistant" or not before:
            raise FieldError(
                "messages", "must end with an answer whose role is assistant, after a prompt"
            )
        return Record(
            line, flatten(before), (last["content"],), user=_user(row), messages=tuple(before)
        )
    return Record(line, _text(row, "prompt"), (_text(row, "response"),), user=_user(row))


def parse_prompt(line: int, row: dict[str, Any]) -> Record:
    """Check one prompt.

    Raises:
        FieldError: a field is missing, empty, or of the wrong type.
    """
    if "messages" in row and "prompt" not in row:
        turns = _messages(row)
        if turns[-1]["role"] == "assistant":
            raise FieldError(
                "messages", "must end with the user's turn, which the model is to answer"
            )
        return Record(line, flatten(turns), user=_user(row), messages=tuple(turns))
    return Record(line, _text(row, "prompt"), user=_user(row))


def parse_ranking(line: int, row: dict[str, Any]) -> Record:
    """Check one ranking in any of its three forms.

    Raises:
        FieldError: a field is missing, empty, or of the wrong type; K < 2; ranks of another length.
    """
    labeler = row.get("labeler")
    who = None if labeler is None else str(labeler)
    if "chosen" in row or "rejected" in row:
        prompt, chosen, rejected = _pair(row)
        return Record(line, prompt, (chosen, rejected), (1, 2), _user(row), who)
    prompt = _text(row, "prompt")
    responses = _list(row, "responses")
    for at, response in enumerate(responses):
        _text({f"responses.{at}": response}, f"responses.{at}")
    if len(responses) < 2:
        raise FieldError("responses", f"expected at least 2 answers to rank, got {len(responses)}")
    ranks = _list(row, "ranks")
    if len(ranks) != len(responses):
        raise FieldError(
            "ranks", f"expected one rank per answer ({len(responses)}), got {len(ranks)}"
        )
    for rank in ranks:
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise FieldError("ranks", f"expected whole numbers from 1 (best), got {describe(rank)}")
    return Record(line, prompt, tuple(responses), tuple(ranks), _user(row), who)


def parse_document(line: int, row: dict[str, Any]) -> Document:
    """Check one record of pretraining text."""
    return Document(line, _text(row, "text"))


def flatten(messages: list[Message]) -> str:
    """Write a conversation as one prompt: a single turn as it is, several with their roles in front."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages)


def _pair(row: dict[str, Any]) -> tuple[str, str, str]:
    chosen, rejected = _text(row, "chosen"), _text(row, "rejected")
    if "prompt" in row:
        return _text(row, "prompt"), chosen, rejected
    shared = os.path.commonprefix([chosen, rejected])
    end = shared.rfind(ASSISTANT)
    if end < 0:
        raise FieldError(
            "chosen",
            'shares no beginning up to "\\n\\nAssistant:" with rejected; expected two dialogues, or a prompt',
        )
    end += len(ASSISTANT)
    answers = (chosen[end:], rejected[end:])
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        if not answer.strip():
            raise FieldError(name, "holds an empty last answer; expected text after Assistant:")
    return chosen[:end], *answers


def _messages(row: dict[str, Any]) -> list[Message]:
    turns = _list(row, "messages")
    if not turns:
        raise FieldError("messages", "is empty; expected a list of {role, content}")
    for at, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise FieldError(f"messages.{at}", f"expected {{role, content}}, got {describe(turn)}")
        _text(
            {f"messages.{at}.{key}": turn[key] for key in ("role", "content") if key in turn},
            f"messages.{at}.role",
        )
        _text(
            {f"messages.{at}.{key}": turn[key] for key in ("role", "content") if key in turn},
            f"messages.{at}.content",
        )
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _user(row: dict[str, Any]) -> str | None:
    return None if row.get("user") is None else str(row["user"])


def _list(row: dict[str, Any], name: str) -> list[Any]:
    value = _present(row, name)
    if not isinstance(value, list):
        raise FieldError(name, f"expected a list, got {describe(value)}")
    return value


def _text(row: dict[str, Any], name: str) -> str:
    value = _present(row, name)
    if not isinstance(value, str):
        raise FieldError(name, f"expected text, got {describe(value)}")
    if not value.strip():
        raise FieldError(name, "is empty; expected text")
    return value


def _present(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        has = ", ".join(map(str, row)) or "nothing"
        near = suggest(name, list(row))
        raise FieldError(
            name, f"is missing{near or f'; the record has {has}'}; set fields to rename a column"
        )
    return row[name]


def settings_of(file: Any) -> FileSettings:
    """Return the part of a spec's `DataFile` that reading needs."""
    return FileSettings(file.path, file.fields, file.on_bad)


def iterate_texts(record: Record) -> Iterator[tuple[str, str]]:
    """Yield (field, text) for every text of a record."""
    yield "prompt", record.prompt
    names = (
        ["response"]
        if len(record.responses) == 1
        else [f"responses.{at}" for at in range(len(record.responses))]
    )
    yield from zip(names, record.responses, strict=True)
