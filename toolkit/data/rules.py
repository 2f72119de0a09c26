"""Which records of a file a run uses (InstructGPT, 3.2), before any is tokenised; drops counted.

In this order: records with personal data go; of prompts that begin alike the first stays; of each
user's different prompts the first ones stay. A task's own data passes no rule.
"""

from __future__ import annotations

from toolkit.data.formats import Read
from toolkit.data.personal import find_personal
from toolkit.data.records import Record, iterate_texts
from toolkit.spec.schema import Data


def apply_rules(data: Data, found: Read[Record]) -> Read[Record]:
    """Drop from `found` what `data.personal`, `data.dedup` and `data.split.per_user` say."""
    if data.personal == "drop":
        found.records = [r for r in found.records if not _is_personal(found, r)]
    if data.dedup is not None:
        kept = drop_repeats(found.records, data.dedup.prefix)
        _count(found, f"prompt begins like an earlier one ({data.dedup.prefix} characters)", kept)
    if data.split.per_user is not None:
        kept = limit_users(found.records, data.split.per_user)
        _count(found, f"over {data.split.per_user} prompts of a user", kept)
    return found


def prompt_key(data: Data, prompt: str) -> str:
    """Return what makes two prompts count as one: the whole prompt, or with dedup its beginning."""
    return prompt if data.dedup is None else beginning(prompt, data.dedup.prefix)


def beginning(prompt: str, prefix: int) -> str:
    """Return the first `prefix` characters; any run of white space counts as one blank."""
    return " ".join(prompt.split())[:prefix]


def drop_repeats(records: list[Record], prefix: int) -> list[Record]:
    """Keep the first of the records whose prompts share their first `prefix` characters.

    Two prompts count as one when their beginnings are equal, which a table of beginnings finds in
    one pass. Several answers or rankings of the very same prompt are no repetition and stay.
    """
    first: dict[str, str] = {}
    kept = []
    for record in records:
        start = beginning(record.prompt, prefix)
        if start not in first or (first[start] == record.prompt and record.responses):
            first.setdefault(start, record.prompt)
            kept.append(record)
    return kept


def limit_users(records: list[Record], limit: int) -> list[Record]:
    """Keep the records of each user's first `limit` different prompts, and all without a user."""
    prompts: dict[str, set[str]] = {}
    kept = []
    for record in records:
        if record.user is None:
            kept.append(record)
            continue
        own = prompts.setdefault(record.user, set())
        if len(own) < limit:
            own.add(record.prompt)
        if record.prompt in own:
            kept.append(record)
    return kept


def _is_personal(found: Read[Record], record: Record) -> bool:
    texts = (text for _, text in iterate_texts(record))
    kind = next((kind for text in texts if (kind := find_personal(text))), None)
    if kind is not None:
        found.dropped[f"with personal data: {kind}"] += 1
    return kind is not None


def _count(found: Read[Record], rule: str, kept: list[Record]) -> None:
    if len(kept) < len(found.records):
        found.dropped[rule] += len(found.records) - len(kept)
    found.records = kept
