"""What a record of each kind must hold, checked one at a time; messages name the field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from toolkit.data.fields import FieldError, suggest
from toolkit.data.metadata import read_metadata, read_sources
from toolkit.data.rows import describe
from toolkit.data.template import Message

ASSISTANT = "\n\nAssistant:"

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
    "ratings",
    "metadata",
    "source",
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
        metadata: of a ranking, what the labeler said of each answer: `quality` from 1 to 7, and
            flags (InstructGPT, table 3); empty without.
        sources: of a ranking, which model gave each answer; empty where that is unknown.
    """

    line: int
    prompt: str
    responses: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    user: str | None = None
    labeler: str | None = None
    messages: tuple[Message, ...] | None = None
    metadata: tuple[Mapping[str, int | bool], ...] = ()
    sources: tuple[str, ...] = ()


class Document(NamedTuple):
    """A piece of pretraining text."""

    line: int
    text: str


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


def parse_collected_ranking(line: int, row: dict[str, Any]) -> Record:
    """Check one ranking of answers that a model gave, which may be empty.

    Raises:
        FieldError: as of `parse_ranking`.
    """
    return parse_ranking(line, row, empty=True)


def parse_ranking(line: int, row: dict[str, Any], *, empty: bool = False) -> Record:
    """Check one ranking in any of its three forms; `empty`: its answers may be.

    Raises:
        FieldError: a field is missing, empty, or of the wrong type; K < 2; ranks of another length.
    """
    labeler = row.get("labeler")
    who = None if labeler is None else str(labeler)
    if "chosen" in row or "rejected" in row:
        prompt, chosen, rejected = _pair(row)
        return Record(
            line, prompt, (chosen, rejected), (1, 2), _user(row), who,
            metadata=read_metadata(row, 2), sources=read_sources(row, 2),
        )  # fmt: skip
    prompt = _text(row, "prompt")
    responses = _list(row, "responses")
    for at, response in enumerate(responses):
        if not (empty and isinstance(response, str)):
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
    return Record(
        line, prompt, tuple(responses), tuple(ranks), _user(row), who,
        metadata=read_metadata(row, len(responses)), sources=read_sources(row, len(responses)),
    )  # fmt: skip


def parse_document(line: int, row: dict[str, Any]) -> Document:
    """Check one record of pretraining text."""
    return Document(line, _text(row, "text"))


def flatten(messages: list[Message]) -> str:
    """Write a conversation as one prompt: a single turn as it is, several with their roles."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages)


def _pair(row: dict[str, Any]) -> tuple[str, str, str]:
    chosen, rejected = _text(row, "chosen"), _text(row, "rejected")
    if "prompt" in row:
        return _text(row, "prompt"), chosen, rejected
    end = chosen[: _shared(chosen, rejected)].rfind(ASSISTANT)
    if end < 0:
        raise FieldError(
            "chosen",
            'shares no beginning up to "\\n\\nAssistant:" with rejected; '
            "expected two dialogues, or a prompt field",
        )
    end += len(ASSISTANT)
    answers = (chosen[end:], rejected[end:])
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        if not answer.strip():
            raise FieldError(name, "holds an empty last answer; expected text after Assistant:")
    return chosen[:end], *answers


def _shared(a: str, b: str) -> int:
    return next(
        (at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _messages(row: dict[str, Any]) -> list[Message]:
    turns = _list(row, "messages")
    if not turns:
        raise FieldError("messages", "is empty; expected a list of {role, content}")
    for at, turn in enumerate(turns):
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise FieldError(f"messages.{at}", f"expected {{role, content}}, got {describe(turn)}")
        for key in ("role", "content"):
            _text({f"messages.{at}.{key}": turn[key]}, f"messages.{at}.{key}")
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
        missing = f"is missing{near or f'; the record has {has}'}"
        raise FieldError(name, missing, fix="; set fields to rename a column")
    return row[name]


def iterate_texts(record: Record) -> Iterator[tuple[str, str]]:
    """Yield (field, text) for every text of a record."""
    yield "prompt", record.prompt
    names = (
        ["response"]
        if len(record.responses) == 1
        else [f"responses.{at}" for at in range(len(record.responses))]
    )
    yield from zip(names, record.responses, strict=True)
