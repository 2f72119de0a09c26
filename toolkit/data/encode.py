"""One record to token ids; what is too long is dropped and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from toolkit.data.records import Record, iterate_texts
from toolkit.data.tokenize import Text
from toolkit.spec.schema import Spec

Tokenized = dict[str, Any]


class BadText(ValueError):
    """A text cannot be encoded; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        """Say what is wrong with `field`."""
        super().__init__(message)
        self.field = field


def encode_record(
    spec: Spec, text: Text, record: Record, dropped: Counter[str]
) -> Tokenized | None:
    """Return the record with its ids, or None after counting why it is dropped.

    Raises:
        BadText: a text holds a special token, or something the tokenizer has no token for.
    """
    for name, content in iterate_texts(record):
        if (token := text.find_special(content)) is not None:
            raise BadText(
                name, f"holds the special token {token!r}, which would end or hide text; remove it"
            )
    limit = spec.text.max_prompt
    prompt_ids = _ids("prompt", partial(text.encode_prompt, record.prompt, record.messages))
    if not prompt_ids:
        raise BadText("prompt", "has no tokens; expected text that the tokenizer knows")
    if len(prompt_ids) > limit:
        dropped[f"prompt over {limit} tokens"] += 1
        return None
    base: Tokenized = {"prompt": record.prompt, "prompt_ids": prompt_ids}
    if spec.data.split.by == "user" and record.user is not None:
        base["user"] = record.user
    if not record.responses:
        return base
    limit = spec.text.max_response
    encoded = [
        _ids("response", partial(text.encode_response, answer)) for answer in record.responses
    ]
    fits = [at for at, ids in enumerate(encoded) if len(ids) <= limit]
    if not record.ranks:
        if not fits:
            dropped[f"response over {limit} tokens"] += 1
            return None
        return base | {"response": record.responses[0], "response_ids": encoded[0]}
    if len(fits) < len(encoded):
        dropped[f"answers over {limit} tokens"] += len(encoded) - len(fits)
    if len(fits) < 2:
        dropped[f"fewer than 2 answers within {limit} tokens"] += 1
        return None
    ranking = {
        "responses": [record.responses[at] for at in fits],
        "responses_ids": [encoded[at] for at in fits],
        "finished": [True] * len(fits),
        "ranks": [record.ranks[at] for at in fits],
    }
    return base | ranking | _about_ranking(record, fits)


def _about_ranking(record: Record, fits: list[int]) -> Tokenized:
    """Return who ranked, and what is said of each answer that stays."""
    said: Tokenized = {} if record.labeler is None else {"labeler": record.labeler}
    if record.sources:
        said["source"] = [record.sources[at] for at in fits]
    if record.metadata:
        said["metadata"] = [dict(record.metadata[at]) for at in fits]
    return said


def _ids(name: str, encode: Callable[[], list[int]]) -> list[int]:
    try:
        return encode()
    except ValueError as error:
        raise BadText(name, str(error)) from error
